"""`lorasmith queue`: runs that wait for each other, one after the other or one on each GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorasmith.cli import console
from lorasmith.cli.options import CpusPerRun, GpusPerRun, Json, On, OnOption, Overrides, split_devices
from lorasmith.core.errors import LorasmithError

if TYPE_CHECKING:
    from lorasmith.training.queue import Job, Queue

QueueFolder = Annotated[Path, typer.Option("--queue", "-q", metavar="FOLDER", help="The folder of the queue.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The name of a job, as `lorasmith queue list` prints it.")]
DEFAULT = Path("queue")

queue_app = typer.Typer(
    help="Train configs one after the other, or one on each GPU. Start with: lorasmith queue add CONFIG.toml",
    no_args_is_help=True,
)


def queue_add_command(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="The settings, TOML or JSON, or a recipe's name.")
    ],
    overrides: Overrides = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            "--rows",
            metavar="FILE.csv|toml",
            help="A job for each line of a table: the first line has the keys, such as name,trigger,data.images.",
        ),
    ] = None,
    folders: Annotated[
        Path | None,
        typer.Option(
            "--folders",
            metavar="FOLDER",
            help="A job for each folder of images in this one. Its name is the name, and the trigger unless one is "
            "given.",
        ),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=VALUE,VALUE",
            help="The job is a sweep of every combination of these values, into the output of the config; repeatable.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Train although there are serious remarks on the data.")
    ] = False,
    queue: QueueFolder = DEFAULT,
    json: Json = False,
) -> None:
    """Add a run to the queue.

    The config is checked and copied into the queue: later changes of the file do not change the job.
    """
    from lorasmith import api

    added = api.queue_add(
        config, overrides or [], queue, rows=rows, folders=folders, over=over or [], accept_remarks=yes
    )
    if json:
        console.print_json({"jobs": [describe(job) for job in added]})
        return
    for job in added:
        console.say(f"{job.name}: waits, trains into {job.output}")
    console.say(f"start the queue with: lorasmith queue run{option_of(queue)}")


def queue_list_command(queue: QueueFolder = DEFAULT, json: Json = False) -> None:
    """Show the jobs of the queue in their order."""
    opened = open_queue(queue)
    jobs = opened.jobs()
    if json:
        rows = [describe(job) for job in jobs]
        console.print_json({"paused": opened.paused, "runner": opened.runner, "jobs": rows})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("job", "state", "run", ""):
        table.add_column(column, overflow="fold")
    for job in jobs:
        table.add_row(Text(job.name), Text(job.state), Text(str(job.output)), Text(job.message))
    console.rich_console().print(table)
    if opened.paused:
        console.say(f"the queue is paused; go on with: lorasmith queue run{option_of(queue)}")
    elif opened.runner is not None:
        console.say(f"process {opened.runner} runs the queue")
    elif any(job.state == "waiting" for job in jobs):
        console.say(f"nothing runs the queue; start it with: lorasmith queue run{option_of(queue)}")


def queue_run_command(
    queue: QueueFolder = DEFAULT,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE,DEVICE", help="One job on each of these; default: all NVIDIA GPUs."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="When all jobs are done, wait for further ones.")] = False,
    on: On = "local",
    gpus_per_run: GpusPerRun = None,
    cpus_per_run: CpusPerRun = None,
    on_option: OnOption = None,
) -> None:
    """Run the jobs of the queue, and go on with a queue that is paused.

    With --on ray or --on slurm, the jobs are tasks of a cluster whose nodes share the folders; see docs/scaling.md.

    Each job is a process of its own. Ctrl-C stops them with a checkpoint. If this command is killed, or the machine is
    switched off, the next `queue run` takes over the jobs that still run and continues the others.
    """
    from lorasmith.training.executors import make_executor
    from lorasmith.training.queue import run_queue

    resources = {"gpus_per_run": gpus_per_run, "cpus_per_run": cpus_per_run}
    executor = make_executor(on, on_option or [], split_devices(device), **resources)
    opened = open_queue(queue)
    opened.set_paused(False)
    if opened.runner is not None:
        console.say(f"process {opened.runner} runs the queue already; it goes on")
        return
    runner = run_queue(opened, executor, wait, console.make_progress())
    counts = count_states(opened)
    console.say(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no jobs")
    if runner.stopping:
        raise typer.Exit(130)
    if counts["failed"]:
        raise typer.Exit(1)


def count_states(queue: Queue) -> dict[str, int]:
    """How many jobs are in each state."""
    states = [job.state for job in queue.jobs()]
    return {state: states.count(state) for state in ("finished", "failed", "stopped", "waiting")}


def queue_pause_command(queue: QueueFolder = DEFAULT) -> None:
    """Start no further job. Jobs that run go on to their end."""
    open_queue(queue).set_paused(True)
    console.say(f"paused; go on with: lorasmith queue run{option_of(queue)}")


def queue_stop_command(job: JobName, queue: QueueFolder = DEFAULT) -> None:
    """Stop a job after its current step, with a checkpoint. It continues after `lorasmith queue retry`."""
    open_queue(queue).stop(job)
    console.say(f"{job}: stops; continue it with: lorasmith queue retry {job}{option_of(queue)}")


def queue_retry_command(job: JobName, queue: QueueFolder = DEFAULT) -> None:
    """Put a job that has failed or was stopped back; its run continues from its last checkpoint."""
    open_queue(queue).retry(job)
    console.say(f"{job}: waits")


def queue_move_command(
    job: JobName,
    place: Annotated[int, typer.Argument(metavar="PLACE", min=1, help="The new place; 1 is the first.")],
    queue: QueueFolder = DEFAULT,
) -> None:
    """Change the place of a job in the order."""
    open_queue(queue).move(job, place - 1)


def queue_remove_command(job: JobName, queue: QueueFolder = DEFAULT) -> None:
    """Remove a job from the queue. The folder of its run stays."""
    open_queue(queue).remove(job)
    console.say(f"{job}: removed; the folder of its run stays")


def open_queue(folder: Path) -> Queue:
    """The queue in a folder. Raises LorasmithError if there is none."""
    from lorasmith.training.queue import Queue

    queue = Queue(folder)
    if not queue.exists:
        raise LorasmithError(
            f"{folder}: there is no queue; add a job first: lorasmith queue add CONFIG.toml{option_of(folder)}"
        )
    return queue


def option_of(folder: Path) -> str:
    """The option that names the folder of a queue, as part of a command; empty for the default."""
    return "" if folder == DEFAULT else f" --queue {folder}"


def describe(job: Job) -> dict[str, Any]:
    """A job as JSON data."""
    return {
        "job": job.name,
        "state": job.state,
        "message": job.message,
        "device": job.device,
        "output": str(job.output),
        "config": str(job.config),
        "overrides": list(job.settings.get("overrides") or []),
    }


COMMANDS = {
    "add": queue_add_command,
    "list": queue_list_command,
    "run": queue_run_command,
    "pause": queue_pause_command,
    "stop": queue_stop_command,
    "retry": queue_retry_command,
    "move": queue_move_command,
    "remove": queue_remove_command,
}
NO_ARGUMENTS = ("list", "run", "pause")
"""Commands that do something without any argument."""
