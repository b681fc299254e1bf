"""The dashboard: a study in the browser while it runs and afterwards; ``luthier dashboard``.

``desk`` reads a log on as it grows; ``feed`` says as JSON what a study is and what changed since an event, and
``page_of_trial`` what there is of one trial; ``actions`` puts into the log what is asked for; ``server`` is the web
around them. The browser's side is in ``static/``: plain modules, no build step, nothing from elsewhere.
"""
