"""A sweep over the product's sources: nothing in them runs text, unpickles what came from elsewhere, starts a
shell or trusts whoever answers."""

import ast

import pytest

from ehr_assets.settings import PROJECT_ROOT

LOADERS = {
    "torch.load",
    "pickle.load",
    "pickle.loads",
    "joblib.load",
    "cloudpickle.load",
    "cloudpickle.loads",
}
# Where one may stand, and where its bytes come from.
MAY_UNPICKLE = {
    "ehr_assets/handed.py": "a file that was compared with the hash that came with the task",
    "ehr_assets/fanout.py": "the pool's own pipe",
    "ehr_assets/embeddings/tasks.py": "this process's memory",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.Unpickler"}
FORBIDDEN_CALLS |= {
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "subprocess.getoutput",
    "marshal.loads",
}
FORBIDDEN_VALUES = {
    "shell": True,
    "verify": False,
    "trust_remote_code": True,
    "weights_only": False,
    "allow_pickle": True,
    "check_hostname": False,
    "use_safetensors": False,
}
SOURCES = [f for room in ("ehr_assets", "jobs", "resources") for f in (PROJECT_ROOT / room).rglob("*.py")]


def offences(source: str, name: str) -> list[str]:
    """The calls in a source that run text, unpickle, start a shell or trust whoever answers."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        loader = None
        if called == "yaml.load":  # with a loader that is safe it is the same as safe_load
            loader = next((ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"), None)
            loader = loader or (ast.unparse(node.args[1]) if len(node.args) > 1 else None)
        if called in FORBIDDEN_CALLS and not (loader or "").endswith("SafeLoader"):
            found.append(f"{called} in line {node.lineno}")
        if called in LOADERS and name not in MAY_UNPICKLE:
            found.append(f"{called} in line {node.lineno}")
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg in FORBIDDEN_VALUES and value is FORBIDDEN_VALUES[keyword.arg]:
                found.append(f"{keyword.arg}={value} in line {node.lineno}")
    return found


def test_no_source_of_ours_runs_text_or_trusts_the_world():
    assert len(SOURCES) > 200
    found = {}
    for file in SOURCES:
        name = file.relative_to(PROJECT_ROOT).as_posix()
        if problems := offences(file.read_text(encoding="utf-8"), name):
            found[name] = problems
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run('ls', shell=True)",
        "requests.get(url, verify=False)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "torch.load(f)",
        "pickle.loads(data)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_the_sweep_finds_what_it_looks_for(source):
    assert offences(source, "ehr_assets/x.py")


def test_the_sweep_lets_the_safe_forms_pass():
    safe = "yaml.load(t, Loader=yaml.SafeLoader)\nmodel.eval()\nre.compile('x')\nrun(['ls'], shell=False)\n"
    assert offences(safe, "ehr_assets/x.py") == []
