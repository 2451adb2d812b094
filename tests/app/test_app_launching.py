"""Serving the page: to whom, and what Gradio is told not to do."""

import importlib.util
import os
import re
import socket
from pathlib import Path

import pytest

from mera_hf.app import launching
from mera_hf.app.launching import is_public, launch, require_gradio
from mera_hf.errors import InputError


TEMPLATES = Path(launching.__file__).parent / "templates"
REPORT = Path(launching.__file__).parents[1] / "report" / "templates" / "style.css.jinja"
COLOUR = re.compile(r"--(\w+): (#[0-9a-f]{6})")


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("127.0.0.1", False),
        ("127.8.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("192.168.0.7", True),
        ("ward-7.hospital", True),
    ],
)
def test_who_can_reach_the_page(host, public, monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert is_public(host) is public
    monkeypatch.setenv("SPACE_ID", "org/space")
    assert is_public(host)


def test_without_gradio_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mera_hf\[app\]'"):
        require_gradio()


def test_gradio_tells_nobody_and_keeps_nothing(plain, monkeypatch):
    """What Gradio is started with; what it does then is in the tests with a browser."""
    import gradio

    told = {}
    monkeypatch.setattr(gradio.Blocks, "launch", lambda self, **options: told.update(options))
    monkeypatch.setenv("NO_PROXY", "intranet")
    page = launch("tiny", *plain)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and not page.analytics_enabled
    assert os.environ["NO_PROXY"] == "intranet,localhost,127.0.0.1"
    off = ("share", "ssr_mode", "pwa", "mcp_server", "enable_monitoring", "run_history", "inbrowser")
    assert {name: told[name] for name in off} == dict.fromkeys(off, False)
    assert told["server_name"] == "127.0.0.1" and told["server_port"] is None and told["footer_links"] == []
    # Nobody but the page calls what the page calls
    assert {function.api_visibility for function in page.fns.values()} == {"private"}


def test_a_port_that_is_taken(plain):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"`--port {port}`"):
            launch("tiny", *plain, port=port)


def colours(text):
    """The colours of light and of dark, which a style sheet has at its head."""
    found = COLOUR.findall(text)
    names = len({name for name, _ in found})
    return dict(found[:names]), dict(found[names : 2 * names])


def luminance(colour):
    """Relative luminance of `#rrggbb` (WCAG 2.2)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_are_those_of_the_report_and_can_be_read():
    light, dark = colours((TEMPLATES / "style.css").read_text())
    assert (light, dark) == colours(REPORT.read_text()) and light.keys() == dark.keys() and len(light) == 10
    for palette in (light, dark):
        for ground in ("paper", "panel"):
            for text in ("ink", "muted", "accent", "warm", "good"):
                low, high = sorted((luminance(palette[ground]), luminance(palette[text])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_the_page_names_no_other_place():
    """No font, script or picture from elsewhere; an address stands for a name space alone."""
    for path in TEMPLATES.iterdir():
        addresses = re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]+", path.read_text())
        assert set(addresses) <= {"http://www.w3.org"}, path.name
