"""Settings: defaults, the environment, one sentence for what cannot be used, and a page that lists them all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import PREFIX, Settings, SettingsError, load_settings, unknown_variables

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def test_the_defaults_are_safe() -> None:
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert (settings.port, settings.metrics_port) == (8000, 9100)
    assert settings.store == "sqlite:///contrec.db"


def test_the_environment_is_read_and_what_is_given_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTREC_PORT", "9000")
    monkeypatch.setenv("CONTREC_STORE", "redis://redis:6379/1")
    monkeypatch.setenv("CONTREC_MAX_BATCH", "")  # empty is unset
    assert load_settings().port == 9000
    assert load_settings().store == "redis://redis:6379/1"
    assert load_settings().max_batch == 32
    assert load_settings(port=9001).port == 9001


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CONTREC_PORT", "eighty", "integer"),
        ("CONTREC_PORT", "70000", "65535"),
        ("CONTREC_METRICS_PORT", "-1", "0"),
        ("CONTREC_STORE", "mysql://db", "is no store"),
        ("CONTREC_STORE", "sqlite://", "names no file"),
        ("CONTREC_STORE", "redis:/:hunter2@redis:6379/0", "is no store"),
        ("CONTREC_STORE", "redis://:hunter/2@redis:6379/0", "cannot be read"),
        ("CONTREC_BUNDLE", "../escape", "pattern"),
        ("CONTREC_QUEUE_SIZE", "0", "1"),
        ("CONTREC_TOKEN_TTL_S", "1.5", "integer"),
        ("CONTREC_LOG_LEVEL", "loud", "info"),
    ],
)
def test_a_bad_setting_is_one_sentence_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    sentence = str(caught.value)
    told = "" if name == "CONTREC_STORE" else f" {value!r}"  # a store's address may hold a password
    assert sentence.startswith(f"{name}{told} cannot be used: ")
    assert reason in sentence
    assert "\n" not in sentence
    assert "hunter" not in sentence


def test_a_setting_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsError, match="CONTREC_COLOUR"):
        load_settings(colour="red")


def test_slips_of_the_pen_are_found() -> None:
    environment = {"CONTREC_PROT": "1", "CONTREC_PORT": "1", "CONTREC_DATA": "x", "contrec_stroe": "y", "PATH": "z"}
    assert unknown_variables(environment) == ["CONTREC_PROT", "contrec_stroe"]


def test_settings_do_not_change_under_way() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_the_page_lists_every_setting_with_its_default_and_nothing_else() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    table, _, _ = page.partition("## Of the other commands")
    rows = dict(re.findall(r"^\| `(CONTREC_[A-Z_]+)` \| `([^`]*)` \|", table, flags=re.MULTILINE))
    expected = {PREFIX + name.upper(): str(field.default) for name, field in Settings.model_fields.items()}
    assert rows == expected


def test_the_page_gives_every_reason() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        assert field.description
        assert field.description in page, f"docs/settings.md lacks the reason of {name}"


READ = re.compile(r"""(?:environ(?:\.get\(|\.setdefault\(|\[)|getenv\(|envvar=)\s*["']([A-Z_]+)["']""")


def test_the_page_names_every_variable_that_any_of_our_code_reads() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rooms = ("contrec", "model", "training", "service", "tests", "bench")
    code = "\n".join(path.read_text(encoding="utf-8") for room in rooms for path in (ROOT / room).rglob("*.py"))
    read = set(READ.findall(code)) - {"PATH"}
    assert read >= {"CONTREC_CACHE", "CONTREC_DEBUG", "CONTREC_COMPOSE", "XDG_CACHE_HOME"}, "the search finds them"
    assert sorted(name for name in read if f"`{name}`" not in page and f"`{name}=1`" not in page) == []
    assert unknown_variables(dict.fromkeys(read, "x")) == [], "the service warns of none that we read ourselves"
