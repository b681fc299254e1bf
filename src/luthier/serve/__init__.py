"""Ask and report over HTTP, for other languages and machines that share nothing: ``luthier serve``, ``luthier work``.

The server is the study's driver, as ``luthier tune`` is; its executor is the ``counter``, to which workers come.
``leases`` says who holds which trial, ``states`` where uploaded checkpoints lie; ``wire`` are the messages, ``app`` is
the web around the counter, ``host`` opens both. The worker's side: ``client`` speaks to a server, ``work``
trains what it is given, ``pack`` makes one file of a folder. It needs nothing of the server's side.
"""
