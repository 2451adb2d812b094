"""Tells transformers' Auto classes of MERA as soon as they are imported, without importing them."""

import importlib.abc
import importlib.util
import sys


_AUTO = "transformers.models.auto.modeling_auto"


def _register() -> None:
    from transformers import AutoConfig, AutoModel

    from .configuration_mera import MeraConfig
    from .modeling_mera import MeraForDiagnosis

    AutoConfig.register("mera", MeraConfig, exist_ok=True)
    AutoModel.register(MeraConfig, MeraForDiagnosis, exist_ok=True)


class _RegisterAfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads `modeling_auto` as usual and registers MERA right behind it; steps aside at the first use."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        module.__spec__.loader = module.__loader__ = self._loader
        _register()


def register_when_imported() -> None:
    """Register now if transformers' Auto models are loaded, otherwise when they are (this project's choice: `import mera_hf`
    must not cost seconds, and `AutoModel.from_pretrained` must know MERA after it)."""
    if _AUTO in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _RegisterAfterImport())
