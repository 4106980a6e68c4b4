"""crossgap: the modality gap and the intra-modal misalignment of CLIP-like models, as notebooks and a thin library.

``__init__.pyi`` beside this file says which names there are. Each is imported when it is first used, so that
``crossgap --help`` does not wait for torch, and editors and JupyterLab complete ``cg.`` from it all the same.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
