"""`steptool serve-rewards`, `score` and `rescore`: step rewards without a training run.

Owns the commands, their arguments and their tables; the work is done by `reward_service`, `cluster.score_files` and
`cluster.rescore`.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cluster.errors import BadConfiguration
from cluster.exit_codes import exit_codes
from cluster.reward_assembly import opened_service
from cluster.reward_file import read_rewards
from cluster.score_files import Asked, score_file
from reward_service.config import KEYS_FILE_VARIABLE, KEYS_VARIABLE, RewardConfig
from reward_service.store.config import SqliteStore
from tool_sandbox.errors import InvalidKeys
from tool_sandbox.http.keys import ApiKeys, refuse_open_door

if TYPE_CHECKING:
    from fastapi import FastAPI

    from cluster.rescore import Rescored

RewardFile = Annotated[
    Path | None, typer.Option(help="YAML file with the reward configuration; default: the linear shaping by rules.")
]
DEFAULT_STORE = Path("rewards.db")
MAX_REQUESTS = 64
"""As many as a replica on Serve works on, and as many as wait for one."""
_SHUTDOWN_MARGIN_SECONDS = 5.0


def serve_rewards(
    host: Annotated[str, typer.Option(help="Address to listen at; beyond loopback only with keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.", min=0, max=65535)] = 8000,
    reward: RewardFile = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="SQLite file for batches, votes and answers, unless --reward says where; default: rewards.db."
        ),
    ] = None,
    max_requests: Annotated[
        int, typer.Option(help="Requests at work at once; more are refused with 429.", min=1)
    ] = MAX_REQUESTS,
) -> None:
    """Serve step rewards from this machine alone: POST /v1/score, and a page for people at /.

    Keys come from [bold]STEPTOOL_REWARD_KEYS[/] or from the file that [bold]STEPTOOL_REWARD_KEYS_FILE[/] names: one
    name:sha256-of-the-key a line. Without keys, only this machine is let in. For a cluster there is Ray Serve:
    [bold]serve deploy deploy/serve/rewards.yaml[/].
    """
    with exit_codes():
        _serve(_with_store(read_rewards(reward) if reward else RewardConfig(), store), host, port, max_requests)


def score(
    source: Annotated[Path, typer.Argument(help="Trajectories: .jsonl or .parquet, one a line or row.")],
    out: Annotated[
        Path, typer.Argument(help="Where the results go: .parquet, else JSON lines; continued if it is there.")
    ],
    reward: RewardFile = None,
    url: Annotated[str | None, typer.Option(help="Ask a running service instead, e.g. http://127.0.0.1:8000.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="Ask a model: address of an OpenAI-compatible server, without /v1.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The model's name at that server.")] = None,
    votes: Annotated[
        int | None, typer.Option(help="How often the judge is asked about a trajectory; default 3.", min=1, max=31)
    ] = None,
) -> None:
    """Score a file of trajectories, step by step. Stop it and run it again: it goes on where it stopped.

    A line holds what `POST /v1/score` takes: an id, and steps or OpenAI messages. With [bold]--url[/] the key is read
    from [bold]STEPTOOL_REWARD_KEY[/].

    With [bold]--judge[/] a language model grades every step. Its votes are kept in OUT.votes.sqlite, so that no run
    asks for one again, and the end tells how far they agree. A judge with a key, a price or other limits: describe it
    in the section [bold]judge[/] of a [bold]--reward[/] file. The last line printed is one JSON object.
    """
    with exit_codes():
        asked = Asked(reward, url, judge, judge_model, votes)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("trajectories", total=None)
            found = score_file(
                source, out, asked, lambda done, total: progress.update(task, completed=done, total=total)
            )
        if "judge" in found:
            Console().print(_agreement(found["judge"]))
        typer.echo(json.dumps(found))


def rescore(
    run: Annotated[Path, typer.Argument(help="Directory of a run, e.g. runs/latest.")],
    reward: Annotated[Path, typer.Option(help="YAML file with the other reward configuration.")],
) -> None:
    """Score a recorded run in another way, and show what rewards, advantages and loss would have been.

    Nothing is generated and no model is loaded. The last line printed is one JSON object.
    """
    from cluster.rescore import rescore as go_through

    with exit_codes():
        found: Rescored | None = None
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("iterations", total=None)
            for done, total, so_far in go_through(run, reward):
                progress.update(task, completed=done, total=total)
                found = so_far
        if found is not None:
            Console().print(_differences(found))
            typer.echo(json.dumps(found.as_dict()))


def _with_store(config: RewardConfig, path: Path | None) -> RewardConfig:
    if "store" not in config.model_fields_set:
        return config.model_copy(update={"store": SqliteStore(path=path or DEFAULT_STORE)})
    if path is not None:
        raise BadConfiguration(f"--store {path}: the file of --reward has a store too; name it in one place")
    return config


def _serve(config: RewardConfig, host: str, port: int, max_requests: int) -> None:
    keys = _keys(host)
    from tool_sandbox.http.server import ServerLimits, listen, serve_opened

    try:
        listener = listen(host, port)
    except OSError as error:
        raise BadConfiguration(f"--host {host} --port {port}: cannot listen there ({error.strerror})") from error

    @asynccontextmanager
    async def opened() -> AsyncIterator[FastAPI]:
        async with opened_service(config) as assembly, assembly.working():
            address, version = f"http://{host}:{listener.getsockname()[1]}", assembly.service.reward_version[:12]
            known = len(keys.resolved().entries)
            typer.echo(f"serving rewards {version} at {address} with {known} keys; stop with Ctrl-C")
            yield assembly.app(keys, max_requests)

    with listener:
        serve_opened(opened, ServerLimits(config.score_seconds + _SHUTDOWN_MARGIN_SECONDS), listener)


def _keys(host: str) -> ApiKeys:
    try:
        named = {KEYS_VARIABLE, KEYS_FILE_VARIABLE} & os.environ.keys()
        keys = ApiKeys.load(os.environ, KEYS_VARIABLE) if named else ApiKeys.nobody_asked()
        refuse_open_door("reward service", host, keys)
    except InvalidKeys as error:
        raise BadConfiguration(f"{error} (variable {KEYS_VARIABLE} or {KEYS_FILE_VARIABLE})") from error
    except ValueError as error:
        raise BadConfiguration(f"--host {host}: expected an IP address or localhost ({error})") from error
    return keys


def _differences(found: Rescored) -> Table:
    table = Table(
        *("iteration", "steps", "reward", "→", "advantages of one sign", "correlation", "loss", "→"),
        title=f"{found.version_before[:12]} → {found.version_after[:12]}",
    )
    for one in found.iterations:
        table.add_row(
            *(str(one.iteration), str(one.steps), f"{one.reward_before:+.3f}", f"{one.reward_after:+.3f}"),
            *(f"{one.advantage_agreement:.0%}", f"{one.correlation:+.2f}"),
            *(f"{one.loss_before:+.4f}", f"{one.loss_after:+.4f}"),
        )
    return table


def _agreement(found: Mapping[str, Any]) -> Table:
    """The judge in a few lines, for people."""
    variance = ", ".join(f"{name} {_number(mean)}" for name, mean in found["mean_variance"].items())
    table = Table("the judge", "", show_header=False)
    table.add_row("votes", f"{found['votes']} on {found['trajectories']} trajectories, {found['lost_votes']} lost")
    table.add_row("all votes on a step agree", _share(found["step_agreement"]))
    table.add_row("all votes on an outcome agree", _share(found["outcome_agreement"]))
    table.add_row("mean variance of", variance)
    table.add_row("tokens read, written", f"{found['prompt_tokens']:,}, {found['completion_tokens']:,}")
    table.add_row("cost", "no price" if found["cost"] is None else f"{found['cost']:.4f}")
    return table


def _share(share: float | None) -> str:
    return "nothing to compare" if share is None else f"{share:.0%}"


def _number(mean: float | None) -> str:
    return "–" if mean is None else f"{mean:.4f}"
