"""Serving the page: on this computer alone unless told otherwise, without analytics, share links or stored runs."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from pathlib import Path

from mera_hf.errors import InputError


TEMPLATES = Path(__file__).parent / "templates"


def require_gradio() -> None:
    """The app is an extra: say how to install it where Gradio is missing."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("The app needs gradio, which is not installed: pip install 'mera_hf[app]'")


def is_public(host: str) -> bool:
    """Whether others can reach a page on this host, or it runs in a Space."""
    if "SPACE_ID" in os.environ:
        return True
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def launch(
    checkpoint: str,
    model,
    tokenizer,
    dataset: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    browser: bool = False,
):
    """
    Serve the page of a checkpoint and return while it runs in the background.

    Args:
        checkpoint (`str`): name of the checkpoint, for the head of the page.
        model (`MeraForDiagnosis`), tokenizer (`PreTrainedTokenizerBase`): the checkpoint.
        dataset (`str` or `Path`, *optional*): a prepared folder whose test patients can be loaded.
        host (`str`, defaults to `"127.0.0.1"`): address to serve on; `0.0.0.0` lets others in.
        port (`int`, *optional*): defaults to the first free one from 7860 on.
        browser (`bool`, defaults to `False`): open the page in the browser.

    Returns:
        the `gradio.Blocks` that is served: `local_url` is its address, `block_thread()` waits, `close()` ends it.

    Raises:
        [`~mera_hf.errors.InputError`]: Gradio is missing, the port is taken, or the dataset cannot be used, see
            [`~mera_hf.app.stored_patients.StoredPatients`].
    """
    require_gradio()
    # Gradio reads these when it is imported; a page that shows patients reports to nobody
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    # Gradio asks its own page whether it is up, which a hospital's proxy cannot answer
    around = os.environ.get("NO_PROXY", os.environ.get("no_proxy", ""))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(filter(None, [around, "localhost", "127.0.0.1"]))
    from mera_hf.app.page import build_page
    from mera_hf.app.stored_patients import StoredPatients
    from mera_hf.app.theme import theme

    public = is_public(host)
    stored = None if dataset is None else StoredPatients(dataset, public)
    page = build_page(model, tokenizer, checkpoint, stored, public)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,  # Gradio would store what was entered in the browser
            footer_links=[],
            theme=theme(),
            head=f"<style>{(TEMPLATES / 'style.css').read_text(encoding='utf-8')}</style>",
            favicon_path=TEMPLATES / "favicon.svg",
        )
    except OSError as error:
        raise InputError(f"`--host {host}`, `--port {port}`: {error}") from error
    return page
