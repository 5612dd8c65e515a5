"""The token of a Ray of a run's own: without it, whoever reaches its ports on this machine could run code in the workers.

Ray draws one by itself, but keeps it in ~/.ray/auth_token, which others may read, and does without where RAY_AUTH_MODE says
so. Ours is drawn for this process and stands in its environment alone, which the kernel shows to nobody else's processes;
Ray's own processes and the workers inherit it.
"""

import os
import secrets

from ray._private.authentication import authentication_token_setup as ray_authentication

_TOKEN = "RAY_AUTH_TOKEN"
_BYTES = 32


def require_token() -> None:
    """Before `ray.init` starts a Ray. A token that the environment has is taken; all later ones of this process share it."""
    os.environ[_TOKEN] = os.environ.get(_TOKEN) or secrets.token_hex(_BYTES)  # an empty one is none
    ray_authentication._enable_token_auth()  # a private name, which also tells the part of Ray that has read the mode before
