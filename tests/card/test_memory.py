"""Memory on simulated cards that hold 1.2 of the model: stock runs, Parallel Model and VAE decodes in turn.

ComfyUI and worker 0 share card 0, worker 1 has card 1. The cards' memory is that of the processes, so what a worker
has copied to the host is its private memory less what it holds of its card.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import cloudpickle
import comfy.ldm.flux.model
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.taesd.taesd
import comfy_models
import pytest
import safetensors.torch
import torch
from card_shared_memory import SharedMemory
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from compact_parallel.runtime.comfy.run import outer_sample
from compact_parallel.runtime.comfy.run.outer_sample import ParallelSampling
from compact_parallel.runtime.config import CompressionConfig, ParallelConfig, PoolConfig, StrategyConfig
from compact_parallel.runtime.pool.pool import Pool
from compact_parallel.runtime.pool.registry import pools
from compact_parallel.tests.support.card_memory import HANDLER, CardLauncher
from device import DEVICE
from sampling import ksampler, relative_error, report
from simulated_card import SimulatedCard

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.skipif(DEVICE != "cpu" or sys.platform != "linux", reason="needs /proc, and no real cards")

CONFIG = ParallelConfig(
    pool=PoolConfig(devices="cuda:0,cuda:1", backend="gloo", name="card"),
    strategy=StrategyConfig(mode="manual", ring_degree=2),
    compression=CompressionConfig(mode="off"),
)
MORE = 3 * 2 * 512 * (3 * 512 + 4 * 512)
"""By so many bytes more than asked for may come free: ComfyUI unloads whole layers, and keeps room for the largest one
and its patches, which it then brings to the card in each call."""


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A Flux of 170 MB in bfloat16."""
    module = comfy_models.flux_without_weights(hidden_size=512, num_heads=4, depth_single_blocks=12)
    torch.manual_seed(0)
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    weights = {name: torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.04, 0.04) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("model") / "flux.safetensors"
    safetensors.torch.save_file(weights, path)
    return path


def with_lora(patcher: ModelPatcher, strength: float) -> ModelPatcher:
    """The model with a LoRA of this strength on all its layers."""
    generator, weights = torch.Generator().manual_seed(3), {}
    for name, weight in patcher.model.named_parameters():
        if weight.ndim == 2:
            rows, columns = weight.shape
            place = name.removesuffix(".weight")
            weights[f"{place}.lora_up.weight"] = torch.randn((rows, 1), generator=generator) * 0.02
            weights[f"{place}.lora_down.weight"] = torch.randn((1, columns), generator=generator)
    return comfy.sd.load_lora_for_models(patcher, None, weights, strength, 0)[0]


class Machine:
    """This process with its card, and the workers with theirs. `asked`: (device, bytes) of every parking."""

    def __init__(self, card: SimulatedCard, folder: Path, model_file: Path) -> None:
        self.card = card
        self.size = model_file.stat().st_size
        self.asked: list[tuple[str, int | None]] = []
        self.config = CONFIG
        self._folder = folder
        self.model = comfy.sd.load_diffusion_model(str(model_file))
        taesd = comfy.taesd.taesd.TAESD(latent_channels=16)
        self._vae = comfy.sd.VAE(sd=taesd.state_dict())

    @property
    def workers(self) -> list[dict]:
        return pools().find("card").status()["workers"]

    def held(self) -> list[int]:
        """Bytes of its card that each worker holds, as it says; it is what it does hold."""
        said = [worker["device_bytes"] for worker in self.workers]
        assert said == [SharedMemory(self._folder / str(rank)).of(rank + 1) for rank in range(2)]
        return said

    def host(self) -> list[int]:
        """Private bytes of each worker that are not the card's."""
        found = []
        for worker, held in zip(self.workers, self.held()):
            lines = Path(f"/proc/{worker['pid']}/smaps_rollup").read_text().splitlines()
            dirty = next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
            found.append(1024 * dirty - held)
        return found

    def with_lora(self, strength: float):
        """The model with a LoRA of this strength on all its layers."""
        return with_lora(self.model, strength)

    def stock(self, patcher) -> torch.Tensor:
        """Samples of this process."""
        return ksampler(patcher, "flux", steps=2, latent={"samples": torch.zeros((1, 16, 8, 8))})

    def parallel(self, patcher, *wrappers) -> torch.Tensor:
        """Samples of the workers; `wrappers` run in them."""
        clone = patcher.clone()
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "compact_parallel", ParallelSampling(self.config))
        for wrapper in wrappers:
            clone.add_wrapper(WrappersMP.OUTER_SAMPLE, wrapper)
        return self.stock(clone)

    def free(self) -> None:
        """What /free does."""
        comfy.model_management.unload_all_models()

    @torch.inference_mode()
    def decode(self) -> None:
        """Needs more room on card 0 than the weights of worker 0 leave."""
        self._vae.decode(torch.zeros((1, 16, 16, 16)))


@pytest.fixture(scope="module")
def machine(model_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    limit = int(1.2 * model_file.stat().st_size)
    park = Pool.park

    def noted(pool, interrupted, device, nbytes):
        made.asked.append((device, nbytes))
        return park(pool, interrupted, device, nbytes)

    with pytest.MonkeyPatch.context() as patch, SimulatedCard(limit, 0, SharedMemory(folder / "0")) as card:
        for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):  # the system gets what is freed at once
            patch.setenv(name, "65536")
        patch.setattr(outer_sample, "HANDLER", HANDLER)
        patch.setattr(pools(), "launcher", CardLauncher(folder, limit))
        patch.setattr(comfy.model_management, "current_loaded_models", [])
        patch.setattr(Pool, "park", noted)
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        made = Machine(card, folder, model_file)
        yield made
        pools().find("card").stop()


def test_three_rounds_with_another_lora_each(machine):
    host = []
    for turn in range(3):
        patcher = machine.with_lora(0.5 + turn) if turn else machine.model
        expected = machine.stock(patcher)
        machine.asked.clear()
        assert relative_error(machine.parallel(patcher), expected) < 0.01
        before = machine.held()
        assert min(before) >= machine.size * 0.99
        host.append(machine.host())
        assert machine.asked == []
        machine.decode()
        (device, asked), *more = machine.asked
        freed = before[0] - machine.held()[0]
        assert device == "cuda:0" and not more and asked <= freed <= asked + MORE < 0.5 * machine.size
        assert machine.held()[1] == before[1]
        host.append(machine.host())
    for worker in zip(*host):
        assert max(worker) - worker[0] < 0.05 * machine.size, host  # the LoRAs are some of it


def test_what_compression_will_hold_is_kept_free_and_a_partial_load_is_told(machine, monkeypatch):
    machine.free()
    expected = machine.parallel(machine.model)
    assert min(machine.held()) > 0.99 * machine.size and report()["warnings"] == []
    for megabytes, whole in ((1, True), (30, False)):
        two_bits = CompressionConfig(mode="codec", codec="2bit", base_memory_gb=megabytes / 1024)
        monkeypatch.setattr(machine, "config", replace(CONFIG, compression=two_bits))
        machine.free()
        samples = machine.parallel(machine.model)
        assert relative_error(samples, expected) < 0.2
        told = [warning for warning in report()["warnings"] if warning.startswith("The model does not fit on cuda:")]
        assert (min(machine.held()) > 0.99 * machine.size) is whole
        assert len(told) == (0 if whole else 2)
    machine.free()


def test_two_workers_on_one_card_take_a_half_each(machine, monkeypatch):
    """The card holds less than two models: they load one after the other, and neither takes all."""
    expected = machine.stock(machine.model)
    shared = replace(CONFIG, pool=PoolConfig(devices="cuda:0*2", name="card"))
    monkeypatch.setattr(machine, "config", shared)
    for _ in range(2):
        samples = machine.parallel(machine.model)
        assert relative_error(samples, expected) < 0.01
        first, second = (worker["device_bytes"] for worker in machine.workers)
        assert 0.35 * machine.size < first < 1.15 * second and second < 1.15 * first
        assert sum(warning.startswith("The model does not fit on cuda:0") for warning in report()["warnings"]) >= 1


def test_two_models_in_turn_on_a_card_that_holds_one(machine, model_file, tmp_path):
    """As the workflows of Wan 2.2 sample with two."""
    weights = safetensors.torch.load_file(model_file)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({name: weight * 0.9 for name, weight in weights.items()}, path)
    other = comfy.sd.load_diffusion_model(str(path))
    samples, host = [], []
    for _ in range(2):
        for patcher in (machine.model, other):
            samples.append(machine.parallel(patcher))
            host.append(machine.host())
            assert min(machine.held()) > 0.99 * machine.size
    assert torch.equal(samples[0], samples[2]) and torch.equal(samples[1], samples[3])
    assert relative_error(samples[0], samples[1]) > 0.01
    for worker in zip(*host):
        assert max(worker) - worker[0] < 0.05 * machine.size, host


def without_mappings(executor, *args, **kwargs):
    """Runs in a worker: from now on its models are unloaded as ComfyUI does it."""
    patcher = executor.class_obj.model_patcher
    patcher.__class__ = patcher.parent.__class__ = ModelPatcher
    return executor(*args, **kwargs)


def note_loaded(executor, *args, **kwargs):
    """Runs in a worker: notes how many bytes it has copied to its card before and after the run."""
    from simulated_card import CardTensor  # the card that this worker is on

    card = CardTensor.card
    before = card.copied["H2D"]
    samples = executor(*args, **kwargs)
    folder = Path(executor.class_obj.model_options["transformer_options"]["noted"])
    (folder / f"loaded {torch.distributed.get_rank()}").write_text(str(card.copied["H2D"] - before))
    (folder / "may pin").write_text(str(comfy.model_management.MAX_PINNED_MEMORY))
    return samples


def test_the_measure_sees_private_copies(machine):
    """Negative control: where weights are not mapped again, those that a worker has parked are its own copies."""
    grown = []
    for wrappers in ((), (without_mappings,)):
        machine.parallel(machine.model, *wrappers)
        before, host = machine.held()[0], machine.host()[0]
        machine.decode()
        grown.append((machine.host()[0] - host) / (before - machine.held()[0]))
        machine.free()
    assert grown[0] < 0.05 and grown[1] > 0.8, grown


def test_parked_weights_that_find_no_room_again_are_patched_all_the_same(machine):
    patcher = machine.with_lora(0.5)
    plain, expected = machine.parallel(machine.model), machine.parallel(patcher)
    machine.decode()
    with torch.inference_mode():
        rest = torch.zeros(machine.card.free - (30 << 20), dtype=torch.uint8, device="cuda")
    samples = machine.parallel(patcher)
    assert machine.held()[0] < 0.97 * machine.size
    del rest
    assert relative_error(samples, expected) < 0.1 * relative_error(plain, expected)


def test_what_was_parked_is_loaded_again_and_no_more(machine, tmp_path):
    patcher = machine.with_lora(1.0)
    patcher.model_options["transformer_options"]["noted"] = str(tmp_path)

    def loaded(do) -> int:
        machine.parallel(patcher, note_loaded)
        before = machine.held()[0]
        do()
        freed = before - machine.held()[0]
        samples = machine.parallel(patcher, note_loaded)
        return freed, int((tmp_path / "loaded 0").read_text()), samples

    freed, again, samples = loaded(machine.decode)
    assert 0 < freed < 0.5 * machine.size and freed * 0.9 < again < freed + MORE
    freed, again, expected = loaded(machine.free)
    assert freed > 0.9 * machine.size and again > 0.9 * machine.size
    assert torch.equal(samples, expected)
    of_all = comfy.model_management.MAX_PINNED_MEMORY
    assert float((tmp_path / "may pin").read_text()) == of_all / 3  # the two workers, and this process


def as_with_highvram(executor, *args, **kwargs):
    """Runs in a worker: from now on weights have no place on the host."""
    comfy.model_management.unet_offload_device = comfy.model_management.get_torch_device
    return executor(*args, **kwargs)


def test_with_highvram_all_is_dropped(machine):
    expected = machine.parallel(machine.model, as_with_highvram)
    machine.decode()
    assert machine.held() == [pytest.approx(0, abs=1 << 20), pytest.approx(machine.size, rel=0.01)]
    assert torch.equal(machine.parallel(machine.model), expected)
    pools().find("card").stop()
