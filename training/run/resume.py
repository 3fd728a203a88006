"""Where a run starts: new, from a published step, after its last finished step, or within a step."""

from dataclasses import dataclass, replace

from transformers.utils import logging

import modeling_dytox
from hub.run.errors import InputError
from hub.run.layout import STATISTICS_FILE, step_name
from hub.run.results import RunResults
from modeling_dytox import IncrementalModel
from training.data.memory import RehearsalMemory
from training.data.scenario import Step
from training.loop.checkpointing import TrainingState
from training.loop.processes import check_agreement, on_main_process
from training.methods import Phase
from training.run.model import LOADING_ERRORS, loading_problem, rebuild_model
from training.run.recipe import without_local_paths
from training.run.results import with_metrics
from training.run.setup import Setup
from training.run.statistics import load_statistics


logger = logging.get_logger(__name__)


@dataclass
class Progress:
    """
    What a run has learned so far.

    Args:
        model (`IncrementalModel`, *optional*): after the last step in `results`; None before step 1.
        memory (`RehearsalMemory`, *optional*): as the step to learn next needs it; None for methods without one.
        results (`RunResults`): of the finished steps.
        within (`WithinStep`, *optional*): where to resume within the next step; None to begin it.
    """

    model: IncrementalModel | None
    memory: RehearsalMemory | None
    results: RunResults
    within: "WithinStep | None" = None


@dataclass(frozen=True)
class WithinStep:
    """
    An epoch boundary within a step.

    Args:
        state (`TrainingState`): as it was saved.
        model (`IncrementalModel`): rebuilt from it.
        phase (`Phase`): the phase it belongs to.
    """

    state: TrainingState
    model: IncrementalModel
    phase: Phase

    @property
    def memory_is_updated(self) -> bool:
        """Whether the memory holds exemplars of the step's classes already."""
        return self.phase.after_memory_update


def resume(setup: Setup) -> Progress:
    """
    Decides where the run starts. The order is important.

    1. With `--overwrite_output_dir` the folder was cleared: it holds no step.
    2. If the folder holds finished steps, the last one gives the model, the memory and the results.
    3. Else, if a published step is continued, it gives the model and the results; its memory is loaded already.
    4. Else nothing is learned yet.
    5. Then, if there are states within the next step, the newest usable one gives the model within that step, and the
       memory if the step had updated it by then. A state that is damaged, of another version or of another shape is
       named and skipped.

    Raises:
        InputError: what the folder holds is damaged, or processes see different folders.
    """
    last_step = setup.folder.last_step()
    check_agreement(setup.accelerator, last_step, "finished steps")
    if last_step > setup.num_known_steps:
        progress = _after_step(setup, last_step)
    else:
        progress = _before_first_own_step(setup)
    remaining = setup.scenario.steps_after(last_step)
    if remaining:
        progress.within = _within(setup, remaining[0], progress.memory)
    return progress


def _after_step(setup: Setup, step: int) -> Progress:
    say = setup.accelerator.print
    say(f"{setup.folder.path} holds {step} of {setup.scenario.num_steps} steps.")
    if setup.memory is not None:
        setup.memory.load(setup.folder.memory_file(step))
    model = setup.folder.load_model(step, setup.arguments.model.attn_implementation)
    statistics = setup.folder.step_folder(step) / STATISTICS_FILE
    advice = f"restore it, or delete {step_name(step)} to learn it again."
    load_statistics(setup.method, model, statistics, advice)
    results = _in_own_words(setup, with_metrics(setup.folder.results_after(step)))
    # A run that was killed between writing the step and renewing its own results.
    on_main_process(setup.accelerator, lambda: setup.folder.save_results(results))
    return Progress(model.to(setup.accelerator.device), setup.memory, results)


def _before_first_own_step(setup: Setup) -> Progress:
    results = RunResults(
        dataset=without_local_paths(setup.folder.recipe)["dataset_name"],
        num_steps=setup.scenario.num_steps,
        class_order=tuple(setup.scenario.class_names),
        seed=setup.seed,
        method=setup.method.name,
    )
    results = _in_own_words(setup, results)
    if setup.continuation is None:
        return Progress(None, setup.memory, results)
    setup.accelerator.print("\n".join(setup.continuation.describe(setup.method)))
    model = setup.continuation.model.to(setup.accelerator.device)
    return Progress(model, setup.memory, setup.continuation.results_before(results))


def _in_own_words(setup: Setup, results: RunResults) -> RunResults:
    """The results with what this version says of itself, of the method and of the test images."""
    return replace(
        results,
        test_split=setup.scenario.test_split,
        code_version=modeling_dytox.__version__,
        method_card=setup.method.describe(),
        exact_across_processes=None if setup.exact_across_processes else False,
    )


def _within(setup: Setup, step: Step, memory: RehearsalMemory | None) -> WithinStep | None:
    """The newest state within a step that can be used; the log is cut back to it, or to the last finished step."""
    within = _newest_usable(setup, step, memory)
    position = within and tuple(within.state.position)
    check_agreement(setup.accelerator, position, "states")
    if within is None:
        setup.log.resume_after_step(step.number - 1)
        return None
    setup.log.resume_after_record(within.state.num_log_records)
    epoch = within.state.position.epoch
    setup.accelerator.print(
        f"Step {step.number} resumes after {within.phase.name}, epoch {epoch} of {within.phase.epochs}."
    )
    return within


def _newest_usable(setup: Setup, step: Step, memory: RehearsalMemory | None) -> WithinStep | None:
    for state in setup.checkpoints.newest_first(step.number):
        try:
            return _use(setup, step, state, memory)
        except InputError as error:
            logger.warning(f"{error} The run resumes from a state that does not need it.")
        except LOADING_ERRORS as error:
            logger.warning(
                f"The state after epoch {state.position.epoch} of phase {state.position.phase + 1} of step "
                f"{step.number} cannot be used ({loading_problem(error)}). The run resumes from before it."
            )
    return None


def _use(setup: Setup, step: Step, state: TrainingState, memory: RehearsalMemory | None) -> WithinStep:
    """
    The point within a step where a state was saved; loads the memory of the step, if it was updated by then.

    Raises:
        InputError: the memory is damaged.
        `LOADING_ERRORS`: the state does not fit the step.
    """
    phases = setup.method.phases(step)
    if state.position.phase >= len(phases):
        raise ValueError(f"the step has {len(phases)} phases")
    phase = phases[state.position.phase]
    model = rebuild_model(
        state.config, state.model_tensors, setup.arguments.model.attn_implementation, setup.frozen_encoder
    )
    if model.config.class_names != setup.scenario.class_names[: step.num_seen_classes]:
        raise ValueError("its classes are not those of the step")
    if memory is not None and phase.after_memory_update:
        memory.load(setup.folder.memory_file(step.number))
    return WithinStep(state, model.to(setup.accelerator.device), phase)
