"""Tells transformers' Auto classes of MERA as soon as they are imported, without importing them."""

import importlib.abc
import importlib.util
import sys


def _register_config() -> None:
    from transformers import AutoConfig

    from .configuration_mera import MeraConfig

    AutoConfig.register("mera", MeraConfig, exist_ok=True)


def _register_model() -> None:
    from transformers import AutoModel

    from .configuration_mera import MeraConfig
    from .modeling_mera import MeraForDiagnosis

    AutoModel.register(MeraConfig, MeraForDiagnosis, exist_ok=True)


# Config and tokenizer load by the first of these modules alone
_AUTO = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
}


class _RegisterAfterImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one of the Auto modules as usual and registers MERA right behind it; steps aside at the first use."""

    def __init__(self, name: str):
        self.name = name

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
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
        _AUTO[self.name]()


def register_when_imported() -> None:
    """Register now if transformers' Auto classes are loaded, otherwise when they are (this project's choice: `import mera_hf`
    must not cost seconds, and `AutoModel.from_pretrained` must know MERA after it)."""
    for name, register in _AUTO.items():
        if name in sys.modules:
            register()
        else:
            sys.meta_path.insert(0, _RegisterAfterImport(name))
