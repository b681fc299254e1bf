"""Arrays in, arrays out. Imports nothing else of Luthier."""
