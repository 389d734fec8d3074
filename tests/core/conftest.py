from hypothesis import settings

# A slow moment of the machine is no failure.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
