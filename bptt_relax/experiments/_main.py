"""What every experiment's ``__main__`` does with its command line: presets, files, overrides."""

import importlib
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pydantic
import tyro

from bptt_relax.outcomes import InputError, say
from bptt_relax.runs.settings import RunSettings

Config = TypeVar("Config", bound=RunSettings)


def program(
    experiment: str, config_type: type[Config], presets: Mapping[str, Config], default: str, description: str
) -> Callable[[], int]:
    """The main function of an experiment: parse, run, print. JAX is imported only after parsing: --help is fast.

    The experiment's package has ``run.py`` with ``run(config) -> Finished`` and ``show(results)``, which prints.

    Args:
        experiment: the package in this one that holds it.
        config_type: as for `parse`, like what follows.
        presets: named starting points.
        default: which preset when none is named.
        description: for ``--help``.
    """

    def main() -> int:
        module = f"bptt_relax.experiments.{experiment}"
        config = parse(config_type, presets, default, f"python -m {module}", description)
        experiment_module = importlib.import_module(f"{module}.run")
        importlib.import_module("bptt_relax.compilation").keep_compiled_programs()
        distributed = importlib.import_module("bptt_relax.distributed")
        with distributed.joined(**config.distributed.model_dump()):
            environment = importlib.import_module("bptt_relax.report.environment")
            say(environment.device_line(), error=True)
            finished = experiment_module.run(config)
            experiment_module.show(finished.results)
            say(f"results, figures and models: {finished.folder}")
        return 0

    return main


def parse(
    config_type: type[Config], presets: Mapping[str, Config], default: str, program: str, description: str
) -> Config:
    """Configuration from the command line: a preset or a TOML file, then overrides of any setting.

    Args:
        config_type: pydantic model with a ``preset`` field.
        presets: named starting points.
        default: which preset when none is named.
        program: how the program is called.
        description: for ``--help``.

    Raises:
        InputError: unknown preset, unreadable file, a setting in it that does not exist or has an impossible value.
        SystemExit: the same on the command line (code 2, with tyro's own message), and after ``--help``.
    """
    arguments, preset, file = _take(sys.argv[1:])
    if preset is not None and preset not in presets:
        raise InputError(f"no preset {preset!r}; there are {', '.join(presets)}")
    start = presets[preset or default]
    if file is not None:
        try:
            start = config_type.model_validate(_merge(start.model_dump(), _read_toml(file)))
        except pydantic.ValidationError as error:
            listed = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InputError(f"--config {file}: {listed}") from error
    return tyro.cli(
        config_type,
        default=start,
        args=arguments,
        prog=program,
        description=_describe(description, presets, default),
    )


def _take(arguments: list[str]) -> tuple[list[str], str | None, Path | None]:
    """Take --preset and --config out of the arguments: they choose the defaults that the rest overrides."""
    rest: list[str] = []
    found: dict[str, str | None] = {"--preset": None, "--config": None}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, value = argument.partition("=")
        if name not in found:
            rest.append(argument)
            continue
        found[name] = value if equals else next(remaining, None)
        if not found[name]:
            raise InputError(f"{name} needs a value")
    file = found["--config"]
    return rest, found["--preset"], None if file is None else Path(file)


def _read_toml(file: Path) -> dict:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InputError(f"cannot read --config {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {file} is not TOML: {error}") from error


def _merge(base: dict, override: dict) -> dict:
    return base | {
        key: _merge(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in override.items()
    }


def _describe(description: str, presets: Mapping[str, pydantic.BaseModel], default: str) -> str:
    names = ", ".join(f"{name} (default)" if name == default else name for name in presets)
    choose = f"Start from --preset NAME ({names}) or --config FILE.toml; every setting below overrides it."
    return f"{description}\n\n{choose}"
