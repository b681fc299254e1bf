"""What every server of Luthier's stands on: ``guard`` decides who may come in, ``listen`` binds the address."""
