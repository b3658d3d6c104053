"""Settings: where they come from, which source wins, and what is said when one is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from voice_agent.config import ConfigError, Settings, load_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.upper().startswith("VOICE_AGENT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path):
    def write(text, name="agent.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_precision_is_this_projects_engines_and_others_have_none():
    stt = load_settings(overrides={"stt": {"weights": "int8", "dtype": "bfloat16"}}).stt
    assert stt.precision == {"dtype": "bfloat16", "weights": "int8"}
    with pytest.raises(ConfigError, match="kv is this project's engine's, and deepgram has none"):
        load_settings(overrides={"stt": {"name": "deepgram", "kv": "int8"}})
    with pytest.raises(ConfigError, match="final_pass is this project's engine's, and deepgram"):
        load_settings(overrides={"stt": {"name": "deepgram", "final_pass": "search"}})
    load_settings(overrides={"stt": {"name": "deepgram", "final_pass": "stream"}})
    with pytest.raises(ConfigError, match="final_pass"):
        load_settings(overrides={"stt": {"final_pass": "oracle"}})


def test_a_language_model_is_for_finals_by_search():
    chosen = {"final_pass": "search", "language_model": "lm.arpa.gz"}
    for final_pass in ("beam", "search"):
        stt = load_settings(overrides={"stt": chosen | {"final_pass": final_pass}}).stt
        assert stt.language_model == Path("lm.arpa.gz") and stt.final_pass == final_pass
    for final_pass in ("stream", "full"):
        with pytest.raises(
            ConfigError, match=f"finals by search, and final_pass is '{final_pass}'"
        ):
            load_settings(overrides={"stt": {**chosen, "final_pass": final_pass}})


def test_without_any_source_the_defaults_hold():
    assert load_settings() == Settings()


def test_a_flag_beats_the_environment_which_beats_the_file(file, monkeypatch):
    path = file('language = "hi"\n[server]\nhost = "file"\nport = 1\nmax_sessions = 2\n')
    monkeypatch.setenv("VOICE_AGENT_SERVER__PORT", "3")
    monkeypatch.setenv("VOICE_AGENT_SERVER__HOST", "environment")
    settings = load_settings(path, {"server": {"port": 4}})
    assert settings.language == "hi"
    assert settings.server.max_sessions == 2
    assert settings.server.host == "environment"
    assert settings.server.port == 4


def test_a_flag_that_was_not_given_leaves_the_weaker_source_alone(file):
    path = file("[server]\nport = 1234\n")
    assert load_settings(path, {"server.port": None, "stt.model": None}).server.port == 1234


def test_dotted_and_nested_overrides_mean_the_same():
    dotted = load_settings(overrides={"stt.model": "x", "stt.right_context": 6})
    assert dotted == load_settings(overrides={"stt": {"model": "x", "right_context": 6}})


def test_yaml_says_the_same_as_toml(file):
    toml = file('[tts.voices]\nkn = "kn+f2"\n')
    yaml = file("tts:\n  voices:\n    kn: kn+f2\n", "agent.yaml")
    assert load_settings(toml) == load_settings(yaml)


def test_an_empty_yaml_file_sets_nothing(file):
    assert load_settings(file("", "agent.yml")) == Settings()


@pytest.mark.parametrize(
    "value",
    ["stun:one.example,turn:two.example", '["stun:one.example", {"urls": "turn:two.example"}]'],
    ids=["commas", "json"],
)
def test_a_list_in_the_environment_is_commas_or_json(monkeypatch, value):
    monkeypatch.setenv("VOICE_AGENT_SERVER__ICE_SERVERS", value)
    servers = load_settings().server.ice_servers
    assert [server.urls for server in servers] == ["stun:one.example", "turn:two.example"]


def test_one_voice_in_the_environment_joins_those_of_the_file(file, monkeypatch):
    monkeypatch.setenv("VOICE_AGENT_TTS__VOICES__EN", "en-gb")
    settings = load_settings(file('[tts.voices]\nkn = "kn"\n'))
    assert settings.tts.voices == {"kn": "kn", "en": "en-gb"}


def test_an_empty_variable_sets_nothing(monkeypatch):
    monkeypatch.setenv("VOICE_AGENT_STT__RIGHT_CONTEXT", "")
    assert load_settings().stt.right_context is None


@pytest.mark.parametrize(
    "text, says",
    [
        ("[servr]\nport = 1", "servr (FILE) is not a setting; did you mean server?"),
        ("[server]\nprot = 1", "server.prot (FILE) is not a setting; did you mean server.port?"),
        ("[vad]\nzzz = 1", "known here: confidence, min_volume, pre_roll_s, start_s, stop_s"),
        ("[server]\nport = 70000", "server.port (FILE): input should be less than or equal to"),
        ('[stt]\ndevice = "gpu"', "stt.device (FILE): must be auto, cpu, cuda or cuda:N"),
        ('[stt]\nname = "deepgam"', "is called 'deepgam'; did you mean deepgram?"),
        ('language = "Kannada"', 'language (FILE): must be a code such as "en" or "kn", or auto'),
        ('[llm]\nmodel = "x"', "llm (FILE): model is set but url is not"),
        ("[vad]\nstart_s = 0.6", "pre_roll_s (0.5) must be at least start_s (0.6)"),
        ("[server\n", "not valid TOML"),
    ],
)
def test_a_bad_file_gets_a_sentence_that_names_file_and_key(file, text, says):
    path = file(text)
    with pytest.raises(ConfigError) as error:
        load_settings(path)
    assert says.replace("FILE", str(path)) in str(error.value)
    assert "\n" not in str(error.value)


def test_every_fault_is_named_at_once(file):
    with pytest.raises(ConfigError, match=r"server\.port.*; .*vad\.stop_s|vad\.stop_s.*; "):
        load_settings(file("[server]\nport = -1\n[vad]\nstop_s = -1\n"))


def test_a_bad_variable_is_named_as_the_variable(monkeypatch):
    monkeypatch.setenv("VOICE_AGENT_SERVER__PORT", "abc")
    with pytest.raises(ConfigError, match=r"VOICE_AGENT_SERVER__PORT.*integer.*'abc'"):
        load_settings()


def test_a_variable_that_sets_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("VOICE_AGENT_SERVR__PORT", "1")
    with pytest.raises(ConfigError, match=r"VOICE_AGENT_SERVR__PORT.*did you mean server"):
        load_settings()


def test_a_bad_item_of_a_list_is_blamed_on_the_variable_of_the_list(monkeypatch):
    monkeypatch.setenv("VOICE_AGENT_SERVER__ICE_SERVERS", "stun:ok,nonsense")
    with pytest.raises(ConfigError, match=r"ice_servers\.1.*\(VOICE_AGENT_SERVER__ICE_SERVERS\)"):
        load_settings()


@pytest.mark.parametrize("name", ["agent.ini", "agent"])
def test_another_kind_of_file_is_refused_by_its_ending(file, name):
    with pytest.raises(ConfigError, match=r"ends in \.toml, \.yaml or \.yml"):
        load_settings(file("", name))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.toml: cannot read"):
        load_settings(tmp_path / "nowhere.toml")


def test_a_wrong_secret_is_not_repeated():
    with pytest.raises(ConfigError) as error:
        load_settings(overrides={"llm.api_key": 12345678})
    assert "llm.api_key" in str(error.value)
    assert "12345678" not in str(error.value)


def test_a_secret_does_not_show_in_the_settings():
    overrides = {"llm.url": "http://x", "llm.model": "m", "llm.api_key": "hush"}
    settings = load_settings(overrides=overrides)
    assert "hush" not in repr(settings)
    assert settings.llm.api_key.get_secret_value() == "hush"


def test_a_model_counts_as_named_only_where_somebody_named_it():
    """Else every system but ours would be asked for tiny-en."""
    whisper = load_settings(overrides={"stt.name": "faster-whisper"}).stt
    assert (whisper.model, whisper.named_model) == ("tiny-en", None)
    assert load_settings(overrides={"stt.model": "tiny-en"}).stt.named_model == "tiny-en"


def test_the_language_may_be_left_to_the_recogniser():
    assert load_settings().spoken_language == "en"
    assert load_settings(overrides={"language": "auto"}).spoken_language is None


def test_slots_follow_the_sessions_unless_they_are_set():
    assert load_settings(overrides={"server.max_sessions": 3}).slots == 3
    assert load_settings(overrides={"server.max_sessions": 3, "stt.slots": 9}).slots == 9


def test_reading_settings_imports_neither_torch_nor_pipecat():
    code = (
        "import sys; from voice_agent.config import load_settings; load_settings(); "
        "heavy = {'torch', 'pipecat', 'numpy', 'onnxruntime', 'fastapi'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
