"""Routes of the local Hub about revisions: branches, tags and the history."""

from itertools import islice

from hub.local.describe import describe_commit
from hub.local.errors import HubError
from hub.local.git import HEADS, MAIN, TAGS
from hub.local.http import API, Request, Response, Router, member
from hub.local.store import Repository


router = Router()

COMMITS_PER_PAGE = 50


@router.repository_route("GET", API + "/refs")
def list_refs(repository: Repository, request: Request) -> Response:
    """Branches and tags with the commits they name."""
    found: dict[str, list[dict[str, str]]] = {"converts": []}
    with repository.git() as git:
        for key, prefix in (("branches", HEADS), ("tags", TAGS)):
            found[key] = [
                {"name": name, "ref": prefix + name, "targetCommit": commit.id.decode()}
                for name, commit in git.refs(prefix).items()
            ]
    if request.flag("include_prs"):
        found["pullRequests"] = []
    return Response.of_json(found)


@router.repository_route("GET", API + r"/commits/(?P<revision>[^/]+)")
def list_commits(repository: Repository, request: Request, revision: str) -> Response:
    """One page of the history of a revision, newest first."""
    page = request.number("p")
    start = page * COMMITS_PER_PAGE
    with repository.git() as git:
        history = islice(git.history(git.find(revision)), start, start + COMMITS_PER_PAGE + 1)
        commits = [describe_commit(commit) for commit in history]
    headers = request.link_to(p=page + 1) if len(commits) > COMMITS_PER_PAGE else {}
    return Response.of_json(commits[:COMMITS_PER_PAGE], headers=headers)


@router.repository_route("POST", API + r"/branch/(?P<name>[^/]+)", write=True)
def create_branch(repository: Repository, request: Request, name: str) -> Response:
    """Makes a branch at the `startingPoint`, any revision (default: `main`)."""
    payload = request.json()
    start = member(payload, "startingPoint", str) if payload.get("startingPoint") else MAIN
    with repository.writing() as git:
        git.create_ref(HEADS, name, git.find(start), request.author)
    return Response(201)


@router.repository_route("DELETE", API + r"/branch/(?P<name>[^/]+)", write=True)
def delete_branch(repository: Repository, request: Request, name: str) -> Response:
    """Deletes a branch other than `main`; its commits stay reachable by id."""
    if name == MAIN:
        raise HubError(403, f"Cannot delete the branch {MAIN!r}")
    with repository.writing() as git:
        git.delete_ref(HEADS, name)
    return Response()


@router.repository_route("POST", API + r"/tag/(?P<revision>[^/]+)", write=True)
def create_tag(repository: Repository, request: Request, revision: str) -> Response:
    """Tags a revision; with a `message`, by an annotated tag."""
    payload = request.json()
    message = member(payload, "message", str) if payload.get("message") else ""
    with repository.writing() as git:
        git.create_ref(TAGS, member(payload, "tag", str), git.find(revision), request.author, message)
    return Response(201)


@router.repository_route("DELETE", API + r"/tag/(?P<name>[^/]+)", write=True)
def delete_tag(repository: Repository, request: Request, name: str) -> Response:
    """Deletes a tag; its commit stays reachable by id."""
    with repository.writing() as git:
        git.delete_ref(TAGS, name)
    return Response()
