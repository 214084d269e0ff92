from tool_sandbox.tools import ToolSpec
PYTHON_SPEC = ToolSpec("python", "", {"type":"object","properties":{"code":{}}})
def default_python_tool(): raise NotImplementedError
