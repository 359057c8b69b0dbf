"""What is told of a run's steps: ComfyUI's callback as without us, and on our own surfaces only what is true."""

from __future__ import annotations

import contextlib
import re
import sys
from types import SimpleNamespace

import cloudpickle
import comfy.samplers
import comfy_models
import pytest
import safetensors.torch
import torch
from compact_parallel.runtime.comfy.run.progress import ProgressRelay, Steps
from compact_parallel.runtime.comfy.shipping.sampling_job import Arguments
from compact_parallel.runtime.report.live import LiveRun, live
from compact_parallel.runtime.report.wording import status_line
from sampling import model, parallel, report

cloudpickle.register_pickle_by_value(sys.modules[__name__])

STEPS = 6


def in_two_halves(wrapped, x, sigmas, extra_args=None, callback=None, disable=None):
    """Goes over the schedule twice and counts its steps anew each time, as samplers that call another one do."""
    import comfy.k_diffusion.sampling

    for _ in range(2):
        sampled = comfy.k_diffusion.sampling.sample_euler(
            wrapped, x, sigmas, extra_args=extra_args, callback=callback, disable=disable
        )
    return sampled


SAMPLERS = {
    "euler": lambda: comfy.samplers.sampler_object("euler"),
    "dpm_adaptive": lambda: comfy.samplers.sampler_object("dpm_adaptive"),
    "dpm_fast": lambda: comfy.samplers.sampler_object("dpm_fast"),
    "in two halves": lambda: comfy.samplers.KSAMPLER(in_two_halves),
}


@contextlib.contextmanager
def lines_of(pool):
    """The lines that a listener sees while a run of this pool samples, in order, without the seconds."""
    lines: list[str] = []

    def listen() -> None:
        run = live().of(pool)
        if run is not None and run.step and not run.outcome:
            line = re.sub(r", [^,]* s per step", "", status_line(run, None))
            lines.extend([line] if line not in lines else [])

    listeners = live()._listeners
    listeners.append(listen)
    try:
        yield lines
    finally:
        listeners.remove(listen)


@torch.inference_mode()
def called_back(patcher, sampler):
    """(step, total) of every call of the callback that ComfyUI's nodes would give a guider."""
    called: list[tuple[int, int]] = []
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(comfy_models.conditioning(1), comfy_models.conditioning(2))
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", STEPS)
    latent = comfy_models.latent("flux")
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))

    def callback(step, x0, x, total):
        called.append((step, total))

    guider.sample(noise, latent, sampler, sigmas, callback=callback, disable_pbar=False, seed=1)
    return called


@pytest.mark.parametrize(
    ("way", "name"),
    [("pool", "euler"), ("pool", "dpm_adaptive"), ("pool", "in two halves"), ("one device", "dpm_fast")],
)
def test_the_steps_told_are_those_that_were_done(way, name, capsys):
    stock = called_back(model("flux"), SAMPLERS[name]())
    workers, choices = (2, {"ring_degree": 2}) if way == "pool" else (1, {})
    patcher = parallel(model("flux"), workers, **choices)
    capsys.readouterr()
    with lines_of(f"test-{workers}") as lines:
        assert called_back(patcher, SAMPLERS[name]()) == stock
    done = len(stock)
    assert report()["steps"] == done
    told = [(int(step), int(total)) for step, total in (re.findall(r"\d+", f"{line} 0")[:2] for line in lines)]
    totals = {"euler": [STEPS] * STEPS, "in two halves": [STEPS] * STEPS + [0] * STEPS}.get(name, [0] * done)
    assert told == list(zip(range(1, done + 1), totals))
    if name != "euler":
        assert done != STEPS  # the control: ComfyUI's total is not the number of steps
    if way == "pool":
        bar = capsys.readouterr().err.split("\r")[-1]
        assert (f"{done}it" if name != "euler" else f"{done}/{done}") in bar


COUNTS = {
    "one by one": ([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], [6] * 6),
    "twice per step": ([0, 0, 1, 1, 2, 2], [1, 1, 2, 2, 3, 3], [6] * 6),
    "every second": ([1, 3, 5], [2, 4, 6], [6] * 3),
    "one too many": ([1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7], [6, 6, 6, 6, 6, 0]),
    "again from the start": ([0, 1, 2, 0, 1, 2, 0, 1], [1, 2, 3, 4, 5, 6, 7, 8], [6] * 6 + [0, 0]),
}


@pytest.mark.parametrize("way", COUNTS)
def test_steps_are_counted_however_a_sampler_tells_them(way):
    said, done, totals = COUNTS[way]
    steps = Steps(SimpleNamespace(sampler=SAMPLERS["euler"](), sigmas=torch.linspace(1, 0, STEPS + 1)))
    seen = []
    for step in said:
        steps(step)
        seen.append((steps.done, steps.total))
    assert seen == list(zip(done, totals))


def test_a_callback_gets_its_tensors_where_stock_sampling_has_them():
    """A previewer may keep its weights there. "meta" stands for a card."""
    seen = []
    arguments = Arguments(None, None, comfy.samplers.sampler_object("euler"), torch.linspace(1, 0, 4))
    arguments = arguments._replace(callback=lambda *given: seen.append(given), disable_pbar=True)
    figures = torch.frombuffer(bytearray(b"{}"), dtype=torch.uint8)
    told = {"x0": torch.zeros(2, 3), "x": torch.ones(2, 3), "figures": figures}
    for device in ("cpu", "meta"):
        with ProgressRelay(arguments, LiveRun("pool", 2, "Flux"), torch.device(device)) as progress:
            progress(0, 3, safetensors.torch.save(told))
    assert [(step, total, x0.device.type, x.device.type) for step, x0, x, total in seen] == [
        (0, 3, "cpu", "cpu"),
        (0, 3, "meta", "meta"),
    ]
