"""Configuration: TOML to frozen dataclasses, checked once, unknown keys refused by name.

Precedence, lowest first: the defaults below, the pair's own file (`bild_dist/pairs/NAME/pair.toml`,
a configuration like any other), the file, the command line or the Python call.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Final, Self

from bild_dist.errors import ConfigError, InvalidRequest
from bild_dist.tables import (
    HttpConfig,
    QueueConfig,
    TelemetryConfig,
    at_least,
    endpoint,
    host_and_port,
    one_of,
)
from bild_dist.types import Options, Role, nearest

DEFAULT_LARGE: Final = "default"
"""Stands for the large model of this project's own pair."""
DEFAULT_SMALL: Final = "default-draft"
"""Stands for the small one."""
DEFAULT_PAIR: Final = "default"
"""The pair of those two: taken where nothing names a model."""
PAIRS: Final = Path(__file__).parent / "pairs"
"""Where the shipped pairs lie: a folder each, with `pair.toml` and what it names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """One worker process. Raises ConfigError when a value is out of its range."""

    model: str = DEFAULT_LARGE
    """Hub id, folder, GGUF file, `toy:...`, or `default` for this project's own pair."""
    tokenizer: str = ""
    """Folder or hub id of the tokenizer, where it is not with the model."""
    exit_layer: int = 0
    """Keep only the first so many (decoder) layers, from 0, which keeps all (paper, section
    4.4).
    """
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:N`."""
    dtype: str = "float32"
    """float32, bfloat16 or float16. Figures that say "identical text" are float32."""
    threads: int = 0
    """CPU threads of the worker; 0 takes one a core. On schedule `paper` the models alternate, so
    both may take them all."""
    listen: str = "zmq://127.0.0.1:0"
    """grpc://HOST:PORT, zmq://HOST:PORT or zmq+ipc://PATH; port 0 lets the system choose."""
    slots: int = 8
    """Requests that may hold a KV cache at once, from 1. Memory is taken for all of them at
    start.
    """
    max_length: int = 2048
    """Tokens per slot, prompt included, from 2; a model that allows fewer has the last word."""
    calm: float = 0.0
    """Leave the layers behind the first whose output resembles its input so much (CALM: Schuster et
    al. 2022), a cosine from 0; 0 runs all of them. For a model that writes alone."""
    calm_decay: float = 4.0
    """How fast that threshold falls along the text, from 0 (paper, section 7.2: tau)."""
    ignore_generation: tuple[str, ...] = ()
    """Fields of the model's generation config to leave out, such as `num_beams`."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint. Off: it can do anything on this machine."""
    metrics: str = ""
    """HOST:PORT of the worker's page for Prometheus, empty for none; see [telemetry]."""
    traces: str = ""
    """Where its spans are sent; by default where those of [telemetry] are."""
    log: str = ""
    """json or console; by default as in [telemetry]."""

    def __post_init__(self) -> None:
        if isinstance(self.ignore_generation, list):
            object.__setattr__(self, "ignore_generation", tuple(self.ignore_generation))
        at_least(self, "exit_layer", 0)
        at_least(self, "threads", 0)
        at_least(self, "slots", 1)
        for name, most in (("calm", 1.0), ("calm_decay", inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not (
                isinstance(value, int | float) and 0 <= value <= most
            ):
                raise ConfigError(f"{name} = {value!r} must be a number from 0 to {most:g}")
        at_least(self, "max_length", 2)
        dtypes = ["float32", "bfloat16", "float16"]
        if self.dtype not in dtypes:
            raise ConfigError(f"dtype = {self.dtype!r}: unknown{nearest(self.dtype, dtypes)}")
        if re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is None:
            raise ConfigError(f"device = {self.device!r} must be cpu, cuda or cuda:N")
        if not self.model:
            raise ConfigError("model = '': name a hub id, a folder or a GGUF file")
        if self.exit_layer and self.model.startswith("toy:"):
            raise ConfigError(
                f"exit_layer = {self.exit_layer}: {self.model} is a toy, which has no layers to leave out"
            )
        if self.metrics:
            host_and_port("metrics", self.metrics)
        endpoint("traces", self.traces)
        one_of("log", self.log, ("", "json", "console"))

    def as_arguments(self) -> list[str]:
        """The command line of `bild worker` that means this configuration."""
        words: list[str] = []
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if value == spec.default:
                continue
            words.append(f"--{spec.name.replace('_', '-')}")
            if isinstance(value, tuple):
                words.append(",".join(value))
            elif not isinstance(value, bool):
                words.append(str(value))
        return words


def where_given(*names: str) -> str:
    """Where settings of a worker are given, for a remedy: few commands have an option for each of them."""
    flags = " and ".join(f"--{name.replace('_', '-')}" for name in names)
    return (
        f"([small] or [large] of a configuration file for -c, or {flags} where a command has that)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorConfig:
    """The process between the two workers."""

    transport: str = "zmq"
    """zmq (ipc on one host), grpc, or inproc (both models in this process)."""
    concurrency: int = 1
    """Requests under way at once, from 1 to the workers' slots."""

    def __post_init__(self) -> None:
        transports = ["zmq", "grpc", "inproc"]
        if self.transport not in transports:
            hint = nearest(self.transport, transports)
            raise ConfigError(f"transport = {self.transport!r}: unknown{hint}")
        at_least(self, "concurrency", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole configuration file: the tables [small], [large], [orchestrator] and [generate], and
    those of the services (`tables.py`).
    """

    small: WorkerConfig = field(default_factory=lambda: WorkerConfig(model=DEFAULT_SMALL))
    large: WorkerConfig = field(default_factory=WorkerConfig)
    orchestrator: OrchestratorConfig = field(default_factory=OrchestratorConfig)
    generate: Options = field(default_factory=Options)
    http: HttpConfig = field(default_factory=HttpConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)

    def worker(self, role: Role) -> WorkerConfig:
        """What a worker that is started here is told: its own table, and what [telemetry] says for all."""
        worker: WorkerConfig = getattr(self, role)
        return dataclasses.replace(
            worker,
            traces=worker.traces or self.telemetry.traces,
            log=worker.log or self.telemetry.log,
        )

    def overlaid(self, **tables: Mapping[str, Any]) -> Self:
        """This configuration with some values replaced, table by table."""
        changed = {
            name: dataclasses.replace(getattr(self, name), **values)
            for name, values in tables.items()
            if values
        }
        return dataclasses.replace(self, **changed)


def configured(
    path: str | None, pair: str | None = None, otherwise: str | None = DEFAULT_PAIR
) -> Config:
    """The configuration of a TOML file, or the defaults without one, laid over those of a shipped
    pair: the one named here, else the file's own (`pair = "de-en"` at its top), else, where the
    file names no model, `otherwise`.

    Relative model paths are taken from the file's folder where something lies there.

    Raises:
        ConfigError: names the file, the key, what was found and what is needed.
    """
    file = None if path is None else Path(path)
    data = {} if file is None else _parsed(file)
    named = data.pop("pair", None)
    if named is not None and not isinstance(named, str):
        raise ConfigError(f"{path}: pair = {named!r} must be a string: the name of a shipped pair")
    models = [role for role in Role if isinstance(data.get(role), dict) and "model" in data[role]]
    chosen = named if pair is None else pair
    if chosen is not None and models:
        raise ConfigError(
            f"{path} names the {models[0]} model, and pair = {chosen!r} names both: leave out one"
        )
    if chosen is None and not models:
        chosen = otherwise
    config = Config() if chosen is None else paired(chosen)
    return config if file is None else _with_tables(config, file, data)


def paired(name: str) -> Config:
    """The configuration that a shipped pair comes with.

    Raises:
        ConfigError: no such pair, or one whose weights are not in this installation.
    """
    known = shipped()
    if name not in known:
        raise ConfigError(
            f"pair = {name!r}: there is no such pair{nearest(name, known, listed=False)}. "
            f"Shipped are: {', '.join(known)}"
        )
    file = PAIRS / name / "pair.toml"
    data = _parsed(file)
    recipe = data.pop("recipe", "")
    config = _with_tables(Config(), file, data)
    for role in Role:
        model = getattr(config, role).model
        if model in (DEFAULT_LARGE, DEFAULT_SMALL) or model.startswith("toy:"):
            continue
        if file.parent not in Path(model).parents or not any(Path(model).glob("*.safetensors")):
            raise ConfigError(
                f"pair = {name!r}: the weights of its {role} model are not in this installation. Make them as "
                f"{recipe} says, or name two models, small and large"
            )
    return config


def shipped() -> list[str]:
    """The names of the shipped pairs, whether or not their weights are here."""
    return sorted(file.parent.name for file in PAIRS.glob("*/pair.toml"))


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None


def _names(path: str | None, role: Role) -> bool:
    """Whether a file says itself which model that is."""
    table = {} if path is None else _parsed(Path(path)).get(role)
    return isinstance(table, dict) and "model" in table


def _with_tables(config: Config, file: Path, data: Mapping[str, Any]) -> Config:
    for table, values in data.items():
        if table in [role.value for role in Role] and isinstance(values, dict):
            values = {**values, **_beside(file, values)}
        config = _with_table(config, str(file), table, values)
    return config


def overlay(config: Config, assignments: Sequence[str]) -> Config:
    """A configuration with single values replaced, each written `table.key=value`.

    A value is read as TOML (`true`, `0.5`, `["a"]`), and as it stands where it is none (`cuda:0`).

    Raises:
        ConfigError: no such table or key, or a value that does not fit.
    """
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        table, dot, key = name.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"--set {assignment}: write TABLE.KEY=VALUE (generate.alpha_fb=0.5)")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        config = _with_table(config, "--set", table, {key: value})
    return config


def _beside(file: Path, values: Mapping[str, Any]) -> dict[str, str]:
    """Paths of a worker's table that lie beside the file, as seen from here."""
    names = {key: values[key] for key in ("model", "tokenizer") if isinstance(values.get(key), str)}
    paths = {key: file.parent / name for key, name in names.items() if name}
    return {key: str(path) for key, path in paths.items() if path.exists()}


def _with_table(config: Config, origin: str, table: str, values: object) -> Config:
    """The configuration with values of one table replaced. `origin` names their file in errors."""
    tables = [spec.name for spec in dataclasses.fields(Config)]
    if table not in tables:
        raise ConfigError(f"{origin}: unknown table [{table}]{nearest(table, tables)}")
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: {table} must be a table: write [{table}] and its keys below")
    base = getattr(config, table)
    hints = typing.get_type_hints(type(base))
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(f"{origin}: unknown key {table}.{key}{nearest(key, list(hints))}")
        if not _fits(value, hints[key]):
            wanted = _name(hints[key])
            raise ConfigError(f"{origin}: {table}.{key} = {value!r} must be {wanted}")
    try:
        return config.overlaid(**{table: values})
    except (ConfigError, InvalidRequest) as error:
        # Their messages begin with the key.
        raise ConfigError(f"{origin}: {table}.{error}") from None


def _fits(value: object, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, str):
        return isinstance(value, str)
    return isinstance(hint, type) and isinstance(value, hint)


def _name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return " or ".join(_name(part) for part in parts)
    if typing.get_origin(hint) is tuple:
        return "a list of strings"
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    return names.get(hint, "a string")


_PAIR: Final = ("device", "dtype", "threads", "tokenizer")
"""Settings of a worker that may be given for both at once, or with `small_` or `large_` in front for one."""


def settled(given: Mapping[str, Any]) -> tuple[Config, dict[Role, str]]:
    """A configuration from settings under the names of the command line, laid over the file
    `config`, if any.

    Also returns the addresses of running workers, empty where workers are to be started. None means
    not given.

    Raises:
        ConfigError: an unknown name, a bad value, or settings that contradict each other.
        InvalidRequest: a per-request option is out of its range.
    """
    given = {name: value for name, value in given.items() if value is not None}
    roles, request = list(Role), [spec.name for spec in dataclasses.fields(Options)]
    house = [spec.name for spec in dataclasses.fields(OrchestratorConfig)]
    single = [f"{role}_{name}" for role in roles for name in (*_PAIR, "worker")]
    known = ["config", "pair", "exit_layer", *map(str, roles), *_PAIR, *single, *house, *request]
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}{nearest(name, known)}")
    addresses = {role: given[f"{role}_worker"] for role in roles if f"{role}_worker" in given}
    if len(addresses) == 1:
        raise ConfigError("name both running workers, small and large, or neither")
    if "exit_layer" in given and Role.LARGE in given and "config" not in given:
        # The first layers of a model that is named once are those of the large one.
        given.setdefault(Role.SMALL, given[Role.LARGE])
    models, pair = [role for role in roles if role in given], given.get("pair")
    if pair is not None and models:
        raise ConfigError(
            f"pair = {pair!r} names both models, and {models[0]} one of them: leave out one or the other"
        )
    if len(models) == 1 and "config" not in given:
        raise ConfigError("name both models, small and large, or neither for the default pair")
    # What runs already, or is named here, is not the default pair.
    otherwise = None if addresses or models else DEFAULT_PAIR
    config = configured(given.get("config"), pair, otherwise)
    early = "exit_layer" in given and Role.SMALL not in given
    named = early and _names(given.get("config"), Role.SMALL)
    if early and not named and PAIRS in Path(config.small.model).parents:
        # A shipped pair names both models, so its small one is asked for no more than where there is none.
        given[Role.SMALL] = given.get(Role.LARGE, config.large.model)
    workers: dict[str, dict[str, Any]] = {}
    for role in roles:
        values = {name: given.get(f"{role}_{name}", given.get(name)) for name in _PAIR}
        values["model"] = given.get(role)
        values["exit_layer"] = given.get("exit_layer") if role is Role.SMALL else None
        workers[role] = {name: value for name, value in values.items() if value is not None}
    return config.overlaid(
        **workers,
        orchestrator={name: given[name] for name in house if name in given},
        generate={name: given[name] for name in request if name in given},
    ), addresses
