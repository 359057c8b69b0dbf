"""Runs and replays of unchanged pipelines: the run is the pipeline's own, and every replay comes to the same inputs."""

from __future__ import annotations

import diffusers
import torch
from compact_parallel.runtime.attention.axis import Axis
from compact_parallel.runtime.config import StepReuseConfig
from compact_parallel.runtime.parallel.agreement import Agreement
from compact_parallel.runtime.pipelines.loading import take_turns, takes_turns
from compact_parallel.runtime.pipelines.running import Runs
from compact_parallel.runtime.pipelines.steps.batching import same_arguments
from compact_parallel.runtime.pipelines.steps.committed import committed
from compact_parallel.runtime.pipelines.steps.groups import PipelineGroups
from compact_parallel.runtime.pipelines.steps.noise import prediction_of
from compact_parallel.runtime.pipelines.steps.path import PipelinePath
from compact_parallel.runtime.pipelines.truth import OTHER_REPLAY, AheadTruth, Truth
from compact_parallel.runtime.report.ledger import Ledger
from distributed import launch
from tiny_pipelines import NAMES, arguments, saved

CPU = torch.device("cpu")
STEPS = 10
SCHEDULERS = (
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "PNDMScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DEISMultistepScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "DDPMScheduler",
)


class PlentyOfMemory:
    def free(self, device):
        return 1 << 40

    def pretend(self, free):
        pass

    def holds(self, shape, device):
        return True


def evaluate(call):
    return call.module(*call.args, **call.kwargs)


def generator():
    return torch.Generator().manual_seed(3)


def pipeline(name, folder, scheduler=""):
    """The pipeline, and the arguments of a short run of it."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(saved(name, folder))
    pipe.set_progress_bar_config(disable=True)
    if scheduler:
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    return pipe, {**arguments(name), "num_inference_steps": STEPS, "output_type": "latent"}


def latents(output):
    return torch.as_tensor(next(iter(output.values())) if isinstance(output, dict) else output[0])


class Recording(AheadTruth):
    """A run of every step by itself that keeps the state after each, and the inputs of each."""

    def __init__(self, *args):
        self.after, self.inputs = [None], []
        super().__init__(*args)

    def at_step(self, call):
        self.inputs.append(self.calls)
        if self.step == 0:
            kind = prediction_of(call.scheduler)
            self._path = PipelinePath(self._runs, call.sample, kind, self._templates, self._memo)
        result = Truth.at_step(self, call)
        self.after.append(committed(self.step + 1, result, call.scheduler, CPU, self._generator))
        return result


def run_of(kind, pipe, given, ledger, look_ahead=3, tolerance=0.06):
    """Runs the pipeline as `kind`, a class of AheadTruth, with seed 3. Returns its latents and the run."""
    torch.manual_seed(7)
    runs = Runs(pipe, {**given, "generator": generator()}, CPU)
    agreement = Agreement(PlentyOfMemory(), ledger, lambda: False)
    config = StepReuseConfig(mode="look_ahead", look_ahead=look_ahead, tolerance=tolerance)
    kept = []

    def nothing(*_):
        pass

    def groups(evaluate_ahead):
        around = (agreement, nothing, nothing, nothing, ledger)
        return PipelineGroups(evaluate_ahead, Axis("step", (0,), 0), *around, look_ahead=look_ahead, batches=True)

    def make(own):
        kept.append(kind(evaluate, agreement, ledger, nothing, runs, config, groups, own))
        return kept[0]

    return latents(runs.run(make)), kept[0]


def alone(pipe, given):
    torch.manual_seed(7)
    return latents(pipe(**given, generator=generator()))


def differing_replays(pipe, given):
    """The latents of a run of its own, and the steps at which a replay asks a denoiser something else than the run."""
    out, run = run_of(Recording, pipe, given, Ledger())
    path, differing = run._path, []
    for step, calls in enumerate(run.inputs):
        path.committed = run.after[step]
        foreseen = path.calls_of(step)
        if len(calls) != len(foreseen) or not all(map(same_arguments, calls, foreseen)):
            differing.append(step)
    return out, differing, run


def all_replays(rank, world, folder):
    torch.set_num_threads(1)
    found = {}
    for name, scheduler in [*((name, "") for name in NAMES), *(("pixart", each) for each in SCHEDULERS)]:
        pipe, given = pipeline(name, folder, scheduler)
        expected = alone(pipe, given)
        out, differing, run = differing_replays(pipe, given)
        # Negative control: from the state after another step a replay comes to another input.
        run._path.committed = replace_random(run.after[5])
        shifted = run._path.calls_of(5)
        found[name, scheduler] = (
            torch.equal(out, expected),
            differing,
            all(map(same_arguments, run.inputs[5], shifted)),
            len(run.inputs),
        )
    return found


def replace_random(state):
    """The state, but for what the last step returned."""
    result = type(state.result)(
        {name: value + 1 for name, value in state.result.items()}
        if isinstance(state.result, dict)
        else tuple(value + 1 if isinstance(value, torch.Tensor) else value for value in state.result)
    )
    return state._replace(result=result)


def test_every_replay_of_every_pipeline_comes_to_the_same_inputs(tmp_path, shared_tiny_pipelines):
    (found,) = launch(all_replays, 1, tmp_path, shared_tiny_pipelines)
    assert len(found) == len(NAMES) + len(SCHEDULERS)
    for which, (equal, differing, shifted_is_same, steps) in found.items():
        assert equal, f"{which}: the run is not the pipeline's own"
        assert differing == [], f"{which}: replays differ at steps {differing} of {steps}"
        assert not shifted_is_same, f"{which}: a wrong state goes unnoticed"


def ahead(rank, world, folder):
    torch.set_num_threads(1)
    found = {}
    for name in NAMES:
        pipe, given = pipeline(name, folder)
        expected = alone(pipe, given)
        # without a tolerance every guess is accepted, and with look_ahead 1 there is none
        for look_ahead, tolerance in ((1, 0.0), (3, 0.0), (3, 1e-9)):
            out, run = run_of(AheadTruth, pipe, given, Ledger(), look_ahead, tolerance)
            error = float((out - expected).norm() / expected.norm())
            found[name, look_ahead, tolerance] = error, run.accepted
    return found


def test_rounds_are_near_and_exact_where_no_guess_is_accepted(tmp_path, shared_tiny_pipelines):
    (found,) = launch(ahead, 1, tmp_path, shared_tiny_pipelines)
    for name in NAMES:
        assert found[name, 1, 0.0] == (0.0, [1] * STEPS)
        error, accepted = found[name, 3, 0.0]
        assert max(accepted) == 3 and sum(accepted) == STEPS
        assert 0 < error < 0.3, f"{name}: {error}"
        error, accepted = found[name, 3, 1e-9]
        assert error < 1e-5, f"{name}: evaluated ahead and rejected, yet {error} off"


def turns(rank, world, folder):
    torch.set_num_threads(1)
    pipe, given = pipeline("flux", folder)
    expected = alone(pipe, given)
    take_turns(pipe, CPU)
    out, run = run_of(AheadTruth, pipe, given, Ledger(), 3, 1e-9)
    again, _ = run_of(AheadTruth, pipe, given, Ledger(), 3, 1e-9)
    views = [name for name, part in pipe.components.items() if type(part).__call__ is not torch.nn.Module.__call__]
    return takes_turns(pipe), max(float((each - expected).abs().max()) for each in (out, again)), run.accepted, views


def test_models_that_take_turns_on_the_device(tmp_path, shared_tiny_pipelines):
    ((taking, error, accepted, views),) = launch(turns, 1, tmp_path, shared_tiny_pipelines)
    assert taking and error < 1e-5 and sum(accepted) == STEPS
    assert not {"transformer", "vae", "text_encoder"} & set(views), "what a run has put on a clone is on the pipeline"


class Batching(AheadTruth):
    """A run that, after its fifth step, evaluates the next three one by one and as one batch."""

    def at_step(self, call):
        result = super().at_step(call)
        if self.step == 4:
            levels, (asked, batched) = self._rounds.levels[5:8], ([], [])
            self._path.look_ahead([None] * 5, levels, lambda call, place: torch.ones_like(call.x) * place)
            alone = [self._path.evaluate(5, [place], _counting(asked))[0] for place in range(3)]
            together = self._path.evaluate(5, [0, 1, 2], _counting(batched))
            self.found = alone, together, len(asked), len(batched)
        return result


def _counting(asked):
    def denoiser(call):
        asked.append(call)
        return evaluate(call)

    return denoiser


def batches(rank, world, folder):
    torch.set_num_threads(1)
    found = {}
    for name in NAMES:
        _, run = run_of(Batching, *pipeline(name, folder), Ledger(), look_ahead=1)
        alone, together, asked, batched = run.found
        far = max(float((one - other).norm() / one.norm()) for one, other in zip(alone, together))
        moved = float((alone[1] - alone[0]).norm() / alone[0].norm())
        found[name] = far, moved, asked, batched
    return found


def test_several_steps_are_evaluated_as_one_batch(tmp_path, shared_tiny_pipelines):
    (found,) = launch(batches, 1, tmp_path, shared_tiny_pipelines)
    for name, (far, moved, asked, batched) in found.items():
        calls = 2 if name == "wan" else 1
        assert (asked, batched) == (3 * calls, calls), f"{name}: {batched} calls in place of {asked}"
        assert far < 1e-5, f"{name}: a batch is {far} off"
        assert moved > 1e-3, f"{name}: the steps hardly differ, so nothing is shown"


class OtherReplay(AheadTruth):
    """A run whose replays start from another latent."""

    def _foresee(self, call):
        super()._foresee(call)
        path, calls_of = self._path, self._path.calls_of

        def shifted(step):
            moved = [{name: _moved(value) for name, value in each.kwargs.items()} for each in calls_of(step)]
            return [each._replace(kwargs=kwargs) for each, kwargs in zip(calls_of(step), moved)]

        path.calls_of = shifted


def _moved(value):
    return value + 1 if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def other_replay(rank, world, folder):
    torch.set_num_threads(1)
    pipe, given = pipeline("flux", folder)
    ledger = Ledger()
    out, run = run_of(OtherReplay, pipe, given, ledger)
    return torch.equal(out, alone(pipe, given)), run.accepted, ledger.to_json()["warnings"]


def test_a_pipeline_whose_replay_differs_runs_one_step_after_the_other(tmp_path, shared_tiny_pipelines):
    ((equal, accepted, warnings),) = launch(other_replay, 1, tmp_path, shared_tiny_pipelines)
    assert equal and accepted == [1] * STEPS and warnings == [OTHER_REPLAY]


