"""The modules behind tools/*.py."""
import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load_tool(path: str) -> ModuleType:
    """Module with the `main` of a script, given by its path from the root.

    That is the module of the command which the script runs; maintainers'
    scripts are loaded anew.
    """
    command = re.search(r"^    run\('([\w-]+)'\)$", (ROOT / path).read_text(),
                        re.MULTILINE)
    if command:
        return importlib.import_module(
            f'mmhier.cli.{command[1].replace("-", "_")}')
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool
