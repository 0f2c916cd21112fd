"""Webhooks of controllers that run as processes on 127.0.0.1: by URL, under the testbed's own authority.

Projects register their webhooks by service, which needs a pod network. The API server calls a URL just as well, as long
as it ends with the same path and the certificate is signed by the bundle beside it.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from scheduler.apiserver import client, errors
from tests.testbed import pki
from tests.testbed.controllers import manifests

ANSWER_S = 30.0


def certificates(authority: pki.Authority, name: str, folder: Path) -> Path:
    """Lay a serving certificate where controller-runtime looks for it: ``tls.crt`` and ``tls.key`` in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = authority.issue(name)
    shutil.copyfile(pair.cert, folder / "tls.crt")
    shutil.copyfile(pair.key, folder / "tls.key")
    (folder / "tls.key").chmod(0o600)
    return folder


def by_url(objects: Sequence[manifests.Object], port: int, bundle: bytes) -> list[manifests.Object]:
    """Return copies in which every ``clientConfig.service`` of an admission or conversion webhook is a URL."""
    changed = copy.deepcopy(list(objects))
    for one in changed:
        for config in _configs(one):
            path = config.pop("service")["path"]
            config["url"] = f"https://127.0.0.1:{port}{path}"
            config["caBundle"] = base64.b64encode(bundle).decode()
    return changed


def _configs(obj: manifests.Object) -> list[manifests.Object]:
    if obj["kind"] in manifests.WEBHOOKS:
        return [one["clientConfig"] for one in obj.get("webhooks", [])]
    conversion = obj["spec"].get("conversion") if obj["kind"] == manifests.CRD else None
    return [conversion["webhook"]["clientConfig"]] if conversion and conversion["strategy"] == "Webhook" else []


def listening(port: int, ca: Path) -> bool:
    """Tell whether an HTTPS server with a certificate of `ca` answers, whatever it says."""
    try:
        with urllib.request.urlopen(
            f"https://127.0.0.1:{port}/", context=ssl.create_default_context(cafile=str(ca)), timeout=2.0
        ):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:  # refused, reset, not yet a TLS server
        return False


async def answer(
    api: client.Client, probe: manifests.Object, field: Sequence[str], deadline_s: float = ANSWER_S
) -> None:
    """Wait until the API server calls the webhook: a dry run of `probe` comes back with a field that only it sets.

    The API server learns of a new registration through a watch of its own, so an object that is created right after the
    registration may still pass untouched.
    """
    said = "nothing"
    try:
        async with asyncio.timeout(deadline_s):
            path = await manifests.served(api, probe)
            while True:
                try:
                    kept = await api.create(path, probe, dryRun="All")
                    if _at(kept, field):
                        return
                    said = f"{probe['kind']} without {'.'.join(field)}"
                except errors.ApiError as error:
                    said = str(error)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise TimeoutError(
            f"the webhook for {probe['kind']} does not answer after {deadline_s:.0f} s; last answer: {said}"
        ) from None


def _at(obj: manifests.Object, field: Sequence[str]) -> object:
    found: object = obj
    for name in field:
        found = found.get(name) if isinstance(found, dict) else None
    return found
