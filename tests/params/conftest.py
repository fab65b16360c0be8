"""Settings of hypothesis for the tests of settings."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # on a busy machine an example can take long
settings.load_profile("no deadline")
