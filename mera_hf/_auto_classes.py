"""Tells transformers' Auto classes and pipelines of MERA as soon as they are imported, without importing them."""

import importlib
import importlib.abc
import importlib.util
import sys


# For each module of transformers, ours that registers MERA there; a config and a tokenizer load by the first of these alone.
# Where one of ours is itself being imported, and so brought theirs in, importing it again does nothing and it goes on to
# register.
_OURS = {
    "transformers.models.auto.configuration_auto": "mera_hf.configuration_mera",
    "transformers.models.auto.modeling_auto": "mera_hf.modeling_mera",
    "transformers.pipelines": "mera_hf.pipeline_mera",
}


class _RegisterAfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one of these modules as usual, and behind it our module, which registers MERA; steps aside at the first
    use."""

    def __init__(self, name: str):
        self.name = name

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec is not None and spec.loader is not None  # transformers has it
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        module.__spec__.loader = module.__loader__ = self._loader
        importlib.import_module(_OURS[self.name])


def register_when_imported() -> None:
    """Register now if transformers' modules are loaded, otherwise when they are (this project's choice: `import mera_hf`
    must not cost seconds, and `AutoModel.from_pretrained` must know MERA after it)."""
    for name, ours in _OURS.items():
        if name in sys.modules:
            importlib.import_module(ours)
        else:
            sys.meta_path.insert(0, _RegisterAfterImport(name))
