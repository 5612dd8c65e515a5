"""The recipe's side of a Redis of the user's own: what is refused before anything connects, and that no secret is repeated."""

import socket

import pytest
import yaml
from orchestrator_folders import sections

from orchestrator import own_redis
from orchestrator.config import Recipe
from orchestrator.recipe import RecipeError, dump, load


def lines_of(tmp_path, **experience):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections(experience=experience)))
    with pytest.raises(RecipeError) as caught:
        load(path)
    return caught.value.lines


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h:7000/3", "rediss://[::1]:1", "unix:///a/b", "embedded", "memory"]
)
def test_addresses_of_servers_are_taken(url):
    assert Recipe.model_validate(sections(experience={"url": url})).experience.external == (
        url not in ("embedded", "memory")
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h:port", "not the address of a server; write redis://host:port"),
        ("redis://h/words", "not the address of a server"),
        ("redis://", "not the address of a server"),
        ("http://h", "no kind of server; set experience.url to embedded, redis://"),
        ("localhost:6379", "no kind of server"),
        ("unix://a/b", "a socket has an absolute path"),
        ("rediss://h?ssl_cert_reqs=none", "it has options behind ? or #; leave them out"),
    ],
)
def test_what_is_no_server_is_refused(tmp_path, url, says):
    (line,) = lines_of(tmp_path, url=url)
    assert line.startswith(f"experience.url = {url}: {says}")


@pytest.mark.parametrize("url", ["redis://:sesame@h:1/0", "rediss://joe:sesame@h", "redis://joe:ses@ame@h"])
def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path, url):
    (line,) = lines_of(tmp_path, url=url)
    assert line.startswith(f"experience.url = {url.partition(':')[0]}://…@h")
    assert "name the user in experience.username" in line
    assert "HEADRACE_REDIS_PASSWORD" in line
    assert "ses" not in line


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"username": "joe"}, "experience.username = joe: a server of the run's own (embedded) has none"),
        ({"ca_file": "/c", "url": "redis://h"}, "experience.ca_file = /c: redis://h is not encrypted"),
        ({"certificate_file": "/c", "url": "rediss://h"}, "of no use without its counterpart; set experience.key_file"),
        ({"key_file": "/c", "url": "rediss://h"}, "set experience.certificate_file as well"),
        ({"memory_mib": 64, "url": "redis://h"}, "limits the embedded server alone"),
        ({"fsync": "everysec", "url": "redis://h"}, "is a setting of the embedded server"),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(tmp_path, settings, says):
    (line,) = lines_of(tmp_path, **settings)
    assert says in line


def test_files_are_relative_to_the_recipe_and_must_be_there(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections(experience={"url": "redis://h", "password_file": "secret"})))
    recipe = load(path)
    assert recipe.experience.password_file == str(tmp_path / "secret")
    (line,) = own_redis.file_problems(recipe)
    assert line.startswith(f"experience.password_file = {tmp_path / 'secret'}: no file that can be read")
    (tmp_path / "secret").write_text("sesame")
    assert own_redis.file_problems(recipe) == []
    assert "sesame" not in dump(recipe)


def test_a_server_that_does_not_answer_is_refused_in_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: whoever connects is refused
        url = f"redis://127.0.0.1:{taken.getsockname()[1]}"
        recipe = Recipe.model_validate(sections(experience={"url": url}))
        with pytest.raises(RecipeError) as caught:
            own_redis.check_server(recipe, patient=False, warn=print)
    (line,) = caught.value.lines
    assert line.startswith(f"experience.url = {url}: {url} did not answer")
    assert line.endswith("; start it, or name another")
