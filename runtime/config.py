"""The configuration of a run: the inputs of the nodes as frozen dataclasses, validated, comparable, with a JSON form.

A wrong value raises ConfigError, whose message is one sentence that names the input, the value and the way out.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

COMPRESSION_MODES = ("auto", "off", "ratio", "quality", "codec")
PREDICTORS = ("auto", "least_squares", "previous", "none")
BACKENDS = ("auto", "nccl", "gloo")
DEGREES = ("data_degree", "cfg_degree", "step_degree", "ulysses_degree", "ring_degree")
WEIGHTS = ("replicate",)
STEP_PREDICTORS = ("auto", "hold", "linear")
ON_UNSUPPORTED = ("error", "run on one device")


class ConfigError(ValueError):
    """A setting that cannot work; the message names the input, the value and the way out."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name} is {value!r}; choose one of {', '.join(choices)}.")


class JsonForm:
    """Gives a frozen dataclass its JSON form: a plain dict of its fields."""

    title: ClassVar[str] = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Any:
        """The inverse of `to_json`. Unknown fields raise ConfigError, missing ones take their default."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(data) - known)
        _require(not unknown, f"{cls.title} has no input {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
        return cls(**data)


_DEVICE = re.compile(r"^(cpu|cuda:\d+)(?:\*(\d+))?$")


def parse_devices(text: str, cuda_count: int) -> tuple[str, ...]:
    """Parses a list of devices into one entry per worker: "cuda:0,cuda:1", "cpu*4", "cuda:0*2".

    `cuda_count` is the number of visible CUDA devices. Raises ConfigError for a word that is no device and for a CUDA
    device that does not exist.
    """
    devices: list[str] = []
    for word in text.split(","):
        match = _DEVICE.match(word.strip())
        _require(
            match is not None,
            f"devices: {word.strip()!r} is not a device; write auto, cpu, cuda:0 or cpu*4, separated by commas.",
        )
        device, count = match[1], int(match[2] or 1)
        _require(count >= 1, f"devices: {word.strip()!r} asks for no worker; the number after * must be at least 1.")
        if device != "cpu":
            found = f"{cuda_count} CUDA device{'' if cuda_count == 1 else 's'} found"
            _require(
                int(device[5:]) < cuda_count,
                f"devices: {device} does not exist ({found}); use auto or a device that is there.",
            )
        devices += [device] * count
    return tuple(devices)


@dataclass(frozen=True)
class PoolConfig(JsonForm):
    """The worker processes of a pool. `name` identifies the pool: same name and config, same processes."""

    title = "Parallel Worker Pool"
    devices: str = "auto"
    backend: str = "auto"
    name: str = ""
    start_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        _one_of("backend", self.backend, BACKENDS)
        _require(bool(self.devices.strip()), "devices is empty; write auto, or name devices such as cuda:0,cuda:1.")
        _require(self.start_timeout_s > 0, f"start_timeout_s is {self.start_timeout_s}; it must be greater than 0.")
        if not self.auto:
            parse_devices(self.devices, cuda_count=1 << 16)

    @property
    def auto(self) -> bool:
        """Whether the devices are chosen by what the machine has."""
        return self.devices.strip() == "auto"

    def worker_devices(self, cuda_count: int, auto: tuple[str, ...]) -> tuple[str, ...]:
        """One device per worker on a machine with `cuda_count` CUDA devices, where "auto" means `auto`.

        Raises ConfigError.
        """
        return auto if self.auto else parse_devices(self.devices, cuda_count)

    def resolve_backend(self, devices: tuple[str, ...], has_nccl: bool) -> str:
        """The torch.distributed backend for these devices, where PyTorch has nccl or not.

        "auto" is nccl if PyTorch has it and every worker has its own GPU, else gloo. Raises ConfigError for nccl where
        PyTorch lacks it, on CPU workers, or with two workers on one device.
        """
        own_gpus = all(device != "cpu" for device in devices) and len(set(devices)) == len(devices)
        if self.backend == "auto":
            return "nccl" if own_gpus and has_nccl else "gloo"
        _require(
            self.backend != "nccl" or own_gpus,
            f"backend is nccl but devices are {','.join(devices)}; nccl needs a CUDA device of its own for every "
            "worker, use gloo or auto.",
        )
        _require(
            self.backend != "nccl" or has_nccl,
            "backend is nccl but this PyTorch was built without it, as it is on Windows; use gloo or auto.",
        )
        return self.backend


@dataclass(frozen=True)
class StrategyConfig(JsonForm):
    """How the workers share the work: degrees of parallelism and exchange. Mode "auto" chooses the degrees per job.

    attention.exchanges.require_known checks the name of the exchange, because this module does not know them.
    """

    title = "Parallel Strategy"
    weights: str = "replicate"
    mode: str = "auto"
    data_degree: int = 1
    cfg_degree: int = 1
    step_degree: int = 1
    ulysses_degree: int = 1
    ring_degree: int = 1
    ring_exchange: str = "all_gather"
    overlap: bool = True

    def __post_init__(self) -> None:
        _one_of("weights", self.weights, WEIGHTS)
        _one_of("mode", self.mode, ("auto", "manual"))
        for name in DEGREES:
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")

    def degrees_set(self) -> dict[str, int]:
        """The degrees that the user has set, by name; empty with mode "auto"."""
        return {name: getattr(self, name) for name in DEGREES} if self.mode == "manual" else {}

    def check_world(self, world: int) -> None:
        """Raises ConfigError unless the degrees multiply to `world` workers."""
        product = math.prod(getattr(self, name) for name in DEGREES)
        factors = " x ".join(f"{name} {getattr(self, name)}" for name in DEGREES)
        _require(
            product == world,
            f"The degrees multiply to {product} ({factors}) but the pool has {world} workers; make both numbers equal.",
        )


@dataclass(frozen=True)
class CompressionConfig(JsonForm):
    """How tensors that cross a link are compressed.

    Mode "auto" decides from the measured link, "ratio" meets `ratio` over the run, "quality" keeps every message's
    error below `max_relative_error`, "codec" uses `codec` (low-rank codecs with `rank`) after the warm-up; "off" is
    exact. compression.codecs.require_known checks the names of the codecs, because this module does not know them.
    """

    title = "Residual Compression"
    predictor: str = "auto"
    error_feedback: bool = True
    warmup_calls: int = 2
    keep_text_exact: bool = False
    base_memory_gb: float = 4.0
    warmup_codec: str = "int8"
    mode: str = "auto"
    ratio: float = 6.0
    max_relative_error: float = 0.07
    codec: str = "2bit"
    rank: int = 16

    def __post_init__(self) -> None:
        _one_of("predictor", self.predictor, PREDICTORS)
        _one_of("mode", self.mode, COMPRESSION_MODES)
        _require(
            self.warmup_calls >= 1,
            f"warmup_calls is {self.warmup_calls}; the first call has no base, so at least 1 is needed.",
        )
        _require(self.base_memory_gb > 0, f"base_memory_gb is {self.base_memory_gb}; it must be greater than 0.")
        _require(1 < self.ratio <= 64, f"ratio is {self.ratio}; it must be greater than 1 and at most 64.")
        _require(
            0 < self.max_relative_error < 1,
            f"max_relative_error is {self.max_relative_error}; it must be between 0 and 1, for example 0.07.",
        )
        _require(self.rank >= 1, f"rank is {self.rank}; it must be at least 1.")

    @property
    def enabled(self) -> bool:
        """Whether anything is compressed. Mode "auto" must be resolved first (planner.compression), else ValueError."""
        if self.mode == "auto":
            raise ValueError("mode auto must be resolved against a measured link first")
        return self.mode != "off"


@dataclass(frozen=True)
class StepReuseConfig(JsonForm):
    """How many neighbouring calls of the sampler are evaluated at the same time.

    The first `warmup_calls` and the last `tail_calls` are evaluated one by one. `predictor` guesses the results of the
    calls in between. A guess that leads further off than `tolerance`, as a share of the picture's RMS, is evaluated
    again; 0 switches that check off.
    """

    title = "Step Reuse"
    mode: str = "off"
    look_ahead: int = 2
    warmup_calls: int = 3
    tail_calls: int = 1
    predictor: str = "auto"
    tolerance: float = 0.06

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, ("off", "look_ahead"))
        _one_of("predictor", self.predictor, STEP_PREDICTORS)
        _require(1 <= self.look_ahead <= 64, f"look_ahead is {self.look_ahead}; it must be from 1 to 64.")
        _require(
            self.warmup_calls >= 1,
            f"warmup_calls is {self.warmup_calls}; a guess needs a call before it, so at least 1 is needed.",
        )
        _require(self.tail_calls >= 0, f"tail_calls is {self.tail_calls}; it must be 0 or more.")
        _require(
            0 <= self.tolerance < 1,
            f"tolerance is {self.tolerance}; it must be 0 (no check) or more and below 1, for example 0.05.",
        )

    @property
    def enabled(self) -> bool:
        """Whether any call is evaluated before the calls that precede it are done."""
        return self.mode != "off" and self.look_ahead > 1


@dataclass(frozen=True)
class XditConfig(JsonForm):
    """What xDiT's own pipelines take beyond the degrees of Parallel Strategy.

    PipeFusion cuts the model into `pipefusion_degree` stages, one per worker, and the picture into `patches` (0: as
    many as stages). The first `warmup_steps` are synchronous, and exact; with as many as there are steps, all are.
    """

    title = "xDiT"
    pipefusion_degree: int = 1
    patches: int = 0
    warmup_steps: int = 1

    def __post_init__(self) -> None:
        _require(self.pipefusion_degree >= 1, f"pipefusion_degree is {self.pipefusion_degree}; it must be at least 1.")
        _require(self.patches >= 0, f"patches is {self.patches}; it must be 0 (one per stage) or more.")
        _require(
            self.patches <= 1 or self.pipefusion_degree > 1,
            f"patches is {self.patches} but pipefusion_degree is 1, so there are no stages to send them to; set "
            "patches to 0, or pipefusion_degree to 2 or more.",
        )
        _require(
            self.warmup_steps >= 1,
            f"warmup_steps is {self.warmup_steps}; PipeFusion reuses what a step before has computed, so at least 1 is "
            "needed.",
        )

    @property
    def pieces(self) -> int:
        """The number of patches that the picture is cut into."""
        return self.patches or self.pipefusion_degree


@dataclass(frozen=True)
class ParallelConfig:
    """The complete configuration: everything that is plugged into `Parallel Model`.

    `self_check`: evaluate one model call of each run whole on every device, too, and report the difference.
    """

    pool: PoolConfig = PoolConfig()
    strategy: StrategyConfig = StrategyConfig()
    compression: CompressionConfig = CompressionConfig()
    on_unsupported: str = "error"
    step_reuse: StepReuseConfig = StepReuseConfig()
    self_check: bool = False

    def __post_init__(self) -> None:
        _one_of("on_unsupported", self.on_unsupported, ON_UNSUPPORTED)

    def to_json(self) -> dict[str, Any]:
        """The configuration as nested plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ParallelConfig:
        """The inverse of `to_json`."""
        return cls(
            pool=PoolConfig.from_json(data["pool"]),
            strategy=StrategyConfig.from_json(data["strategy"]),
            compression=CompressionConfig.from_json(data["compression"]),
            on_unsupported=data["on_unsupported"],
            step_reuse=StepReuseConfig.from_json(data["step_reuse"]),
            self_check=data["self_check"],
        )


def chosen_step_reuse(config: ParallelConfig) -> StepReuseConfig:
    """The Step Reuse settings; with step_degree above 1 and Step Reuse off, its defaults with look_ahead = step_degree.

    Raises ConfigError if look_ahead is less than step_degree.
    """
    step_degree = config.strategy.step_degree if config.strategy.mode == "manual" else 1
    reuse = config.step_reuse
    if step_degree > 1 and reuse.mode == "off":
        return StepReuseConfig(mode="look_ahead", look_ahead=step_degree)
    if step_degree > reuse.look_ahead:
        raise ConfigError(
            f"step_degree is {step_degree} but look_ahead of Step Reuse is {reuse.look_ahead}, so some workers would "
            f"never have a call; set look_ahead to {step_degree} or more, or step_degree to {reuse.look_ahead}."
        )
    return reuse
