"""The ids that a run has at services, kept in its folder, so that each life goes on with what the one before began."""

import json
import logging
import secrets

from orchestrator.folder import RunFolder

log = logging.getLogger(__name__)


class Identities:
    """`sinks.json`: id by sink. One that cannot be read is made anew: figures are not what a run ends for."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        try:
            content = json.loads(folder.sinks.read_text())
        except (OSError, ValueError):
            content = {}
        self._ids = {str(name): str(one) for name, one in content.items()} if isinstance(content, dict) else {}

    def known(self, sink: str) -> str:
        """Empty = none yet."""
        return self._ids.get(sink, "")

    def keep(self, sink: str, identity: str) -> None:
        self._ids[sink] = identity
        try:
            self._folder.write_json(self._folder.sinks, self._ids)
        except OSError as error:
            log.warning("a sink's id was not kept; a later life begins another run there", extra={"error": str(error)})

    def drawn(self, sink: str) -> str:
        """The one that is kept, or a random one from now on."""
        if not self.known(sink):
            self.keep(sink, secrets.token_hex(8))
        return self.known(sink)
