"""Values only: spaces, studies, trials, events and the history they fold into. Imports nothing else of Luthier."""
