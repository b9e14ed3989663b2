"""The documents say what the code does: hooks, settings, routes, plugins and links, each compared with its source."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

import callgram
from callgram import hooks
from callgram.events import POSTED, Kind, _Wire
from callgram.http import _documented
from callgram.loader import GROUP, adopt
from callgram.numbers import Rewrite
from callgram.settings import (
    ENVIRONMENT,
    CallSettings,
    EnterpriseEntry,
    LimitSettings,
    PluginEntry,
    PluginsFile,
    Settings,
    parse_plugins,
)

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PLUGINS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][GROUP]
SPECS = {name: function for name, function in vars(hooks).items() if hasattr(function, "callgram_spec")}

STORE_MODULES = frozenset(
    {
        "callgram.calls.book",
        "callgram.calls.facts",
        "callgram.cards",
        "callgram.context",
        "callgram.errors",
        "callgram.events",
        "callgram.naming",
        "callgram.reading",
        "callgram.shards",
        "callgram.store",
        "callgram.trace",
    }
)
"""What callgram_postgres may import beyond ``callgram.__all__``: it implements the Store protocol of callgram.store, so
it reads and writes the values of that protocol. No other plugin has an exception."""
EXCEPTIONS = {"callgram_postgres": STORE_MODULES}


def text_of(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def sections(text: str, level: int) -> dict[str, str]:
    """``{heading: what stands below it}`` of the headings of one level."""
    parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)
    bodies = (re.split(rf"^#{{1,{level}}} ", body, maxsplit=1, flags=re.MULTILINE)[0] for body in parts[2::2])
    return dict(zip(parts[1::2], bodies, strict=True))


def rows(text: str) -> dict[str, list[str]]:
    """``{first cell: the others}`` of the tables in ``text``; the first cell without its backticks."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def load(name: str) -> Any:
    return EntryPoint(name=name, value=PLUGINS[name], group=GROUP).load()


# Hooks


def documented_hooks() -> dict[str, str]:
    return {title: body for title, body in sections(text_of("hooks.md"), 2).items() if title.endswith(")")}


def test_every_hook_is_documented_with_exactly_its_arguments() -> None:
    declared = {f"{name}({', '.join(inspect.signature(function).parameters)})" for name, function in SPECS.items()}
    assert set(documented_hooks()) == declared


@pytest.mark.parametrize("title", [*documented_hooks()])
def test_a_documented_hook_says_its_kind_when_and_who(title: str) -> None:
    name, body = title.partition("(")[0], documented_hooks()[title]
    kind = re.search(r"\*\*(Deciding|Observing|Lifecycle)", body)
    assert kind
    assert kind.group(1) == "Observing" if name.startswith("on_") else kind.group(1) != "Observing"
    assert "\nWhen: " in body
    first = "first answer" in body
    assert first == bool(SPECS[name].callgram_spec["firstresult"])


@pytest.mark.parametrize("title", [*documented_hooks()])
def test_a_documented_hook_names_the_shipped_plugins_that_have_it(title: str) -> None:
    name, body = title.partition("(")[0], documented_hooks()[title]
    said = re.search(r"^Implemented by: (.+)\.$", body, flags=re.MULTILINE)
    assert said
    named = set() if said.group(1) == "nobody" else set(re.findall(r"`(\w+)`", said.group(1)))
    assert named == {plugin for plugin in PLUGINS if name in adopt(plugin, load(plugin), {}).hooks}


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_is_async_and_explained(name: str) -> None:
    assert inspect.iscoroutinefunction(SPECS[name])
    assert inspect.getdoc(SPECS[name])


# Plugins


@pytest.mark.parametrize("name", PLUGINS)
def test_every_shipped_plugin_loads(name: str) -> None:
    loaded = adopt(name, load(name), {})
    assert (loaded.status, loaded.error) == ("ok", "")
    assert loaded.hooks


def test_every_shipped_plugin_has_an_entry_point() -> None:
    folders = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
    assert folders == {value.partition(":")[0] for value in PLUGINS.values()}


MODULES = [
    pytest.param(path, id=str(path.relative_to(ROOT / "plugins"))) for path in sorted((ROOT / "plugins").glob("*/**/*.py"))
]


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """``(module, name)`` of every import, ``name`` ``""`` for ``import module``."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide what is used"
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES)
def test_a_plugin_uses_only_the_public_names_of_callgram(path: Path) -> None:
    package = path.relative_to(ROOT / "plugins").parts[0]
    allowed = EXCEPTIONS.get(package, frozenset())
    wrong = [
        f"{module} {name}".strip()
        for module, name in imports(path)
        if module.partition(".")[0] == "callgram"
        and module not in allowed
        and not (module == "callgram" and name in callgram.__all__)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", MODULES)
def test_a_plugin_imports_no_other_plugin(path: Path) -> None:
    package = path.relative_to(ROOT / "plugins").parts[0]
    roots = {module.partition(".")[0] for module, _ in imports(path)}
    assert {root for root in roots if root.startswith("callgram_")} <= {package}


def test_the_exceptions_are_all_needed() -> None:
    for package, allowed in EXCEPTIONS.items():
        used = {module for path in (ROOT / "plugins" / package).rglob("*.py") for module, _ in imports(path)}
        assert allowed <= used


def test_public_names_exist_and_are_sorted() -> None:
    assert list(callgram.__all__) == sorted(callgram.__all__)
    for name in callgram.__all__:
        assert hasattr(callgram, name)


# Settings

KERNEL_SETTINGS = {
    "Top level": PluginsFile,
    "`[[plugin]]`": PluginEntry,
    "`[defaults]`": CallSettings,
    "`[enterprise.NUMBER]`": EnterpriseEntry,
    "`[limits]`": LimitSettings,
    "`rewrite`": Rewrite,
}


def settings_of_plugins() -> dict[str, Any]:
    found = {f"`{name}`": getattr(load(name), "Settings", None) for name in PLUGINS}
    return {heading: struct for heading, struct in found.items() if struct is not None}


ALL_SETTINGS = {**KERNEL_SETTINGS, **settings_of_plugins()}


def structs_within(struct: Any) -> set[Any]:
    """The struct and all that its fields are made of."""
    found: set[Any] = set()

    def walk(kind: Any) -> None:
        if isinstance(kind, msgspec.inspect.StructType) and kind.cls not in found:
            found.add(kind.cls)
            for field in kind.fields:
                walk(field.type)
        for part in ("item_type", "value_type"):
            if hasattr(kind, part):
                walk(getattr(kind, part))
        for part in (*getattr(kind, "types", ()), *(getattr(kind, "item_types", ()))):
            walk(part)

    walk(msgspec.inspect.type_info(struct))
    return found


def test_the_kernels_settings_are_all_looked_at() -> None:
    assert structs_within(PluginsFile) == set(KERNEL_SETTINGS.values())


@pytest.mark.parametrize("heading", ALL_SETTINGS)
def test_settings_are_frozen_and_refuse_unknown_keys(heading: str) -> None:
    for struct in structs_within(ALL_SETTINGS[heading]):
        assert struct.__struct_config__.frozen, struct
        assert struct.__struct_config__.forbid_unknown_fields, struct


def test_the_settings_of_a_process_are_frozen() -> None:
    assert Settings.__struct_config__.frozen


def in_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'" if "\\" in value else f'"{value}"'
    if isinstance(value, tuple | list):
        return "[]"
    return "{}" if isinstance(value, dict) else str(value)


@pytest.mark.parametrize("heading", ALL_SETTINGS)
def test_every_key_is_documented_with_its_default(heading: str) -> None:
    table = rows(sections(text_of("settings.md"), 3)[heading])
    fields = {field.name: field for field in msgspec.structs.fields(ALL_SETTINGS[heading])}
    assert set(table) - {"key", "---"} == set(fields)
    for name, field in fields.items():
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if default is msgspec.NODEFAULT:
            assert table[name][0] == "required", name
        elif isinstance(default, msgspec.Struct) or default in (None, msgspec.UNSET) or name == "enterprise":
            assert table[name][0] == "", name
        else:
            assert table[name][0] == f"`{in_toml(default)}`", name


def test_an_enterprise_can_set_every_call_setting() -> None:
    assert set(CallSettings.__struct_fields__) <= set(EnterpriseEntry.__struct_fields__)


def test_every_variable_is_documented() -> None:
    table = rows(sections(text_of("settings.md"), 2)["Environment"])
    assert set(table) - {"variable", "---"} == set(ENVIRONMENT)


def test_plugins_without_settings_are_named_as_such() -> None:
    said = re.search(r"^(.+) take no settings\.", text_of("settings.md"), flags=re.MULTILINE)
    assert said
    without = {name for name in PLUGINS if f"`{name}`" not in settings_of_plugins()}
    assert set(re.findall(r"`(\w+)`", said.group(1))) == without


def code_blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_every_plugins_toml_in_the_documents_is_valid() -> None:
    blocks = [block for path in pages() for block in code_blocks(path, "toml") if block.startswith("api = ")]
    assert len(blocks) >= 2
    for block in blocks:
        parse_plugins(block, "a block of toml")


def test_the_shipped_and_the_repositorys_plugins_toml_are_the_same() -> None:
    shipped = (ROOT / "kernel/callgram/plugins.toml").read_text("utf-8")
    assert shipped == (ROOT / "plugins.toml").read_text("utf-8")


def test_python_in_the_documents_compiles() -> None:
    for path in pages():
        for block in code_blocks(path, "python"):
            compile(block, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial-first-plugin.md"])
def test_plugins_in_the_documents_can_be_loaded(page: str) -> None:
    blocks = [block for block in code_blocks(ROOT / page, "python") if "@hookimpl" in block]
    assert blocks
    for block in blocks:
        module = type(ast)("tutorial")
        exec(compile(block, page, "exec", dont_inherit=True), vars(module))  # the document's own code
        found = next((one for one in vars(module).values() if inspect.isclass(one) and hasattr(one, "Settings")), module)
        loaded = adopt("tutorial", found, {})
        assert (loaded.status, loaded.error) == ("ok", "")
        assert loaded.hooks


# Events


def test_every_route_is_documented() -> None:
    table = rows(sections(text_of("events.md"), 2)["Request"])
    assert set(table) - {"route", "---"} == {f"/{kind}" for kind in POSTED}


def test_every_field_that_is_read_is_documented() -> None:
    read = {field.encode_name for field in msgspec.structs.fields(_Wire)}
    said = " ".join(line.split("|")[1] for line in text_of("events.md").splitlines() if line.startswith("| `"))
    assert read <= set(re.findall(r"`(\w+)`", said))


def test_every_status_is_documented() -> None:
    table = set(rows(sections(text_of("events.md"), 2)["Answers"])) - {"status", "---"}
    operation = _documented(Kind.START).post
    assert operation
    raised = {
        str(node.args[0].value)
        for path in (ROOT / "kernel/callgram").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "IngestError"
        and isinstance(node.args[0], ast.Constant)
    }
    assert raised
    assert set(operation.responses or {}) | raised | {"404", "405"} == table
    assert raised <= set(operation.responses or {})


def test_every_metric_is_documented_with_its_labels() -> None:
    from callgram import metrics

    said = set(re.findall(r"`(callgram_\w+(?:\{[\w,]+\})?)`", text_of("operating.md")))
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            name = metric.describe()[0].name + ("_total" if isinstance(metric, Counter) else "")
            labels = ",".join(metric._labelnames)
            assert (f"{name}{{{labels}}}" if labels else name) in said


# Pages


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "plugins").glob("*/*.md")])


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in pages()])
def test_no_page_links_to_a_missing_file_or_heading(path: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"\w+:", target):
            continue
        file, _, heading = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", linked.read_text("utf-8"), flags=re.MULTILINE)
            assert heading in map(slug, headings), target


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in pages()])
def test_no_page_names_a_missing_file_of_the_repository(path: Path) -> None:
    for name in re.findall(r"`((?:kernel|plugins|tests|docs)/[\w./-]+)`", path.read_text("utf-8")):
        assert (ROOT / name).exists(), name


def test_every_page_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for path in DOCS.glob("*.md"):
        assert f"](docs/{path.name})" in readme, path.name


def test_the_changelog_begins_with_the_plugin_api() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for title, body in sections(changelog, 2).items():
        assert re.search(r"^### (.+)$", body, flags=re.MULTILINE).group(1) == "Plugin API", title  # type: ignore[union-attr]
    assert f"[{callgram.__version__}]" in changelog
    assert f"version {hooks.API_VERSION}" in changelog.lower()


def test_every_command_in_the_readme_exists() -> None:
    from callgram.cli import callgram as program

    known = set(program.commands) | {"details", "directory", "operator", "simulator"}  # of plugins
    for path in pages():
        for command in re.findall(r"^    callgram (\w+)", path.read_text("utf-8"), flags=re.MULTILINE):
            assert command in known, f"{path.name}: callgram {command}"
