"""Whether the hub of models can be reached: tried once and briefly, where its client would try for half a minute."""

from __future__ import annotations

SECONDS = 5


def hub_is_reachable() -> bool:
    """Whether the hub answers within a few seconds; False if its client is set offline (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        # the session of the client, which knows proxies; any answer will do, whatever its status
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:
        return False
    return True
