"""Exports to the Hugging Face hub as soon as they are made."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.training.run import Run


class Upload(Hook):
    """Uploads each export when it is made. What cannot be uploaded is a note, and training goes on; the files stay on
    the disk anyway."""

    kind: Literal["upload"] = "upload"
    repo: str = Field(pattern=r"^[^/\s]+/[^/\s]+$")
    """`user/name`; made if it does not exist."""
    repo_type: Literal["model", "dataset", "space"] = "model"
    path: str = ""
    """The folder in the repository; default: its top."""
    public: bool = False
    """Whether a repository that is made can be seen by all."""
    states: bool = False
    """Also upload the states that the hook `state` writes."""
    background: bool = False
    """Train on while files are on their way; the end of the run waits for them."""
    token_from: str = "HF_TOKEN"
    """The environment variable with the access token, which is written nowhere; without it, the one of `hf auth login`
    counts."""
    _api: Any = PrivateAttr(None)
    _pool: ThreadPoolExecutor | None = PrivateAttr(None)
    _pending: list[tuple[Future[None], int, Path]] = PrivateAttr(default_factory=list)

    def open(self, run: Run) -> None:
        from huggingface_hub import HfApi

        self._api = HfApi(token=os.environ.get(self.token_from) or None)
        self._pool = ThreadPoolExecutor(1)
        try:
            self._api.create_repo(self.repo, repo_type=self.repo_type, private=not self.public, exist_ok=True)
        except Exception as error:
            run.progress.say(f"{self.repo} cannot be opened on the hub, uploads may fail: {self._plain(error)}")
        kinds = ("export", "state") if self.states else ("export",)
        run.events.listen(lambda event, step, fields: event in kinds and self._send(run, step, fields["file"]))

    def after_step(self, run: Run) -> None:
        self._report(run, wait=False)

    def finish(self, run: Run) -> None:
        """Files are sent by events; `close` waits for them."""

    def close(self, run: Run) -> None:
        self._report(run, wait=True)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _send(self, run: Run, step: int, file: str) -> None:
        if self._pool is None:
            return
        path = run.folder / file
        self._pending.append((self._pool.submit(self._upload, path), step, path))
        self._report(run, wait=not self.background)

    def _upload(self, path: Path) -> None:
        place = {"repo_id": self.repo, "repo_type": self.repo_type}
        name = f"{self.path.strip('/')}/{path.name}".lstrip("/")
        if path.is_dir():
            self._api.upload_folder(folder_path=path, path_in_repo=name, **place)
        else:
            self._api.upload_file(path_or_fileobj=path, path_in_repo=name, **place)

    def _report(self, run: Run, wait: bool) -> None:
        """Tell of uploads that are through; `wait`: until all are."""
        for item in list(self._pending):
            future, step, path = item
            if not (wait or future.done()):
                continue
            error = future.exception()
            self._pending.remove(item)
            if error is None:
                run.events.write("upload", step, file=run.shown(path), repo=self.repo)
                continue
            reason = self._plain(error)
            run.events.write("upload_failed", step, file=run.shown(path), repo=self.repo, reason=reason)
            run.progress.say(f"{path.name} is not uploaded to {self.repo}: {reason}")

    def _plain(self, error: BaseException) -> str:
        """What went wrong in one line, without the token."""
        said = " ".join(str(error).split())[:300] or type(error).__name__
        token = os.environ.get(self.token_from)
        return said.replace(token, "***") if token else said
