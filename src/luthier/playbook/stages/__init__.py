"""The stages' scripts, one file each.

The order and its reasons: Godbole et al., Deep Learning Tuning Playbook (2023): one scientific question at a time, its
coupled neighbours tuned along. Screening runs are complete short trainings with their own schedule, never prefixes of
long ones: among good configurations a prefix of a decaying schedule ranks poorly.
"""
