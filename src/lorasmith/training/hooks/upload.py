"""Upload exports to the Hugging Face Hub as soon as they are written."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from lorasmith.training.hooks.base import Hook

if TYPE_CHECKING:
    from lorasmith.training.run import Run

LONGEST_REASON = 300


class Upload(Hook):
    """Uploads each export and the model card as soon as they are written, and the best weights at the end of the
    session. A failed upload is reported and training continues; the files stay on the disk in any case."""

    kind: Literal["upload"] = "upload"
    repo: str = Field(pattern=r"^[^/\s]+(/[^/\s]+)?$")
    """Repository, as `user/name`, or `name` alone for one of your own. It is created if it does not exist."""
    repo_type: Literal["model", "dataset", "space"] = "model"
    path: str = ""
    """Folder in the repository. Default: its root."""
    names: dict[str, str] = Field(default_factory=dict)
    """Other names in the repository, by the names of files: `{"garp.peft.safetensors" = "adapter.safetensors"}`."""
    public: bool = False
    """Whether a repository that is created is visible to everyone."""
    states: bool = False
    """Also upload the states that the hook `state` writes."""
    background: bool = False
    """Continue training while files are uploaded. The end of the run waits for all uploads."""
    token_from: str = "HF_TOKEN"
    """Environment variable that holds the access token. The token is not written to any file. Without this variable,
    the token of `hf auth login` is used."""
    _api: Any = PrivateAttr(None)
    _pool: ThreadPoolExecutor | None = PrivateAttr(None)
    _pending: list[tuple[Future[None], int, Path]] = PrivateAttr(default_factory=list)

    def open(self, run: Run) -> None:
        from huggingface_hub import HfApi

        self._api = HfApi(token=os.environ.get(self.token_from) or None)
        # one thread, so that files arrive in the order in which they were written
        self._pool = ThreadPoolExecutor(1)
        # without a network, training starts all the same: the hub may be reachable when the first file is written
        private = not self.public
        try:
            self._api.create_repo(self.repo, repo_type=self.repo_type, private=private, exist_ok=True)
        except Exception as error:
            reason = self._reason_without_token(error)
            run.progress.say(f"{self.repo} cannot be opened on the hub, uploads may fail: {reason}")

        events = ("export", "card", "state") if self.states else ("export", "card")

        def on_event(event: str, step: int, fields: dict[str, Any]) -> None:
            if event in events:
                self._start_upload(run, step, run.folder / fields["file"])

        run.events.listen(on_event)

    def after_step(self, run: Run) -> None:
        self._report(run, wait=False)

    def finish(self, run: Run) -> None:
        """Uploads are started by events; `close` waits for them."""

    def close(self, run: Run) -> None:
        self._upload_best(run)
        self._report(run, wait=True)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _upload_best(self, run: Run) -> None:
        """Upload the best weights, unless those of that step are there already. While a run improves they change often,
        so that they are uploaded only when the session ends."""
        judged = run.events.of("best")
        best = judged[-1] if judged else {}
        file, step = best.get("file"), best.get("best_step")
        if not file or not isinstance(step, int) or not (run.folder / file).is_file():
            return
        uploads = run.events.of("upload")
        if not any(upload.get("file") == file and upload.get("step") == step for upload in uploads):
            self._start_upload(run, step, run.folder / file)

    def _start_upload(self, run: Run, step: int, path: Path) -> None:
        if self._pool is None:
            return
        future = self._pool.submit(self._upload, path)
        self._pending.append((future, step, path))
        self._report(run, wait=not self.background)

    def _upload(self, path: Path) -> None:
        name = self.names.get(path.name, path.name)
        path_in_repo = f"{self.path.strip('/')}/{name}".lstrip("/")
        # a file goes to one place only if its owner is named; creating a repository needs no owner
        repo = self.repo if "/" in self.repo else f"{self._api.whoami()['name']}/{self.repo}"
        repository = {"repo_id": repo, "repo_type": self.repo_type}
        if path.is_dir():
            self._api.upload_folder(folder_path=path, path_in_repo=path_in_repo, **repository)
        else:
            self._api.upload_file(path_or_fileobj=path, path_in_repo=path_in_repo, **repository)

    def _report(self, run: Run, wait: bool) -> None:
        """Log the uploads that have ended. With `wait`, wait for all uploads first."""
        for upload in list(self._pending):
            future, step, path = upload
            if not wait and not future.done():
                continue
            # waits for the upload to end
            error = future.exception()
            self._pending.remove(upload)
            file = run.relative_path(path)
            if error is None:
                run.events.write("upload", step, file=file, repo=self.repo)
            else:
                reason = self._reason_without_token(error)
                run.events.write("upload_failed", step, file=file, repo=self.repo, reason=reason)
                run.progress.say(f"{path.name} is not uploaded to {self.repo}: {reason}")

    def _reason_without_token(self, error: BaseException) -> str:
        """The message of an error in one line. The token is removed, since messages of the hub may contain it."""
        one_line = " ".join(str(error).split())
        reason = one_line[:LONGEST_REASON] or type(error).__name__
        token = os.environ.get(self.token_from)
        return reason.replace(token, "***") if token else reason
