"""Routes of the local Hub about accounts, repositories and their cards."""

from collections.abc import Mapping
from typing import Any

from dulwich.objects import Commit

from hub.local.accounts import check_may_write
from hub.local.card import card_metadata, card_problems
from hub.local.describe import describe, format_date
from hub.local.errors import HubError
from hub.local.git import MAIN, GitRepository
from hub.local.http import API, Request, Response, Router, member
from hub.local.names import REPO_TYPES, check_repo_id
from hub.local.store import Repository, Store


router = Router()

_KINDS = {name: kind for kind, name in REPO_TYPES.items()}


@router.route("GET", r"/api/whoami-v2")
def whoami(store: Store, request: Request) -> Response:
    """Name, organizations and role of the caller."""
    account = request.account
    if account is None:
        raise HubError(401, "Invalid credentials: the request has no token")
    names = {"id": account.name, "name": account.name, "fullname": account.name}
    orgs = [{"type": "org", "name": name, "fullname": name} for name in account.orgs]
    token = {"type": "access_token", "accessToken": {"displayName": account.name, "role": account.role}}
    return Response.of_json({"type": "user", **names, "orgs": orgs, "auth": token})


@router.route("POST", r"/api/validate-yaml")
def validate_card(store: Store, request: Request) -> Response:
    """Errors and warnings about the metadata of a card."""
    errors, warnings = card_problems(member(request.json(), "content", str))
    problems = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Response.of_json(problems, 400 if errors else 200)


@router.route("POST", r"/api/repos/create")
def create_repository(store: Store, request: Request) -> Response:
    """Makes a repository; an existing one is an error that carries its address."""
    payload = request.json()
    kind, repo_id = _named(payload, request)
    account = check_may_write(request.account, repo_id)
    private = _is_private(payload)
    repository = store.repository(kind, repo_id)
    url = f"{request.endpoint}/{repository.url_path}"
    try:
        store.create(repository, account.name, private)
    except FileExistsError as error:
        raise HubError(409, str(error), payload={"url": url}) from None
    return Response.of_json({"url": url, "name": repo_id, "private": private})


@router.route("DELETE", r"/api/repos/delete")
def delete_repository(store: Store, request: Request) -> Response:
    """Removes a repository with its history."""
    kind, repo_id = _named(request.json(), request)
    store.delete(store.open(kind, repo_id, request.account, write=True))
    return Response()


def _named(payload: Mapping[str, Any], request: Request) -> tuple[str, str]:
    name = payload.get("type") or "model"
    if name not in _KINDS:
        raise HubError(400, f"repository type {name!r:.80}: expected one of {', '.join(_KINDS)}")
    namespace = payload.get("organization") or (request.account.name if request.account else "")
    return _KINDS[name], check_repo_id(f"{namespace}/{member(payload, 'name', str)}")


def _is_private(payload: Mapping[str, Any]) -> bool:
    visibility = payload.get("visibility") or "public"
    if visibility not in ("public", "private"):
        raise HubError(400, f"visibility {visibility!r:.80}: expected 'public' or 'private'")
    return bool(visibility == "private")


@router.repository_route("PUT", API + "/settings", write=True)
def update_settings(repository: Repository, request: Request) -> Response:
    """Changes the visibility of a repository."""
    payload = request.json()
    if payload.get("gated"):
        raise HubError(400, "the local Hub has no gated repositories: use visibility 'private'")
    if "visibility" in payload:
        repository.set_private(_is_private(payload))
    return Response.of_json({"private": repository.settings.private})


@router.repository_route("GET", API + r"(?:/revision/(?P<revision>[^/]+))?")
def describe_repository(repository: Repository, request: Request, revision: str = MAIN) -> Response:
    """A repository at a revision: its files, the metadata of its card, its dates."""
    with repository.git() as git:
        commit = git.find(revision)
        card = _card(git, commit)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in git.files(commit)]
        if request.flag("blobs"):
            siblings = [_sibling(describe(path, git.read(blob))) for path, blob in git.files(commit).items()]
    settings = repository.settings
    tags = card.get("tags")
    info = {
        "_id": repository.repo_id,
        "id": repository.repo_id,
        "author": repository.repo_id.split("/")[0],
        "sha": commit.id.decode(),
        "private": settings.private,
        "gated": False,
        "disabled": False,
        "createdAt": format_date(settings.created_at),
        "lastModified": format_date(commit.commit_time),
        "downloads": 0,
        "likes": 0,
        "tags": [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        "cardData": card or None,
        "siblings": siblings,
    }
    if repository.kind == "models":
        info["modelId"] = repository.repo_id
        info.update((key, card[key]) for key in ("library_name", "pipeline_tag") if key in card)
    return Response.of_json(info)


def _sibling(entry: dict[str, Any]) -> dict[str, Any]:
    sibling = {"rfilename": entry["path"], "blobId": entry["oid"], "size": entry["size"]}
    if "lfs" in entry:
        lfs = entry["lfs"]
        sibling["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return sibling


def _card(git: GitRepository, commit: Commit) -> dict[str, Any]:
    card = git.find_file(commit, "README.md")
    try:
        return card_metadata(card.data.decode(errors="replace")) if card is not None else {}
    except ValueError:
        return {}
