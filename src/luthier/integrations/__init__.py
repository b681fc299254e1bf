"""Luthier in other libraries' terms, one file each; the library is imported only where its file is.

Nothing is imported here: ``from luthier.integrations.lightning import LuthierCallback``. ``docs/integrations.md`` has a
few lines for each.
"""
