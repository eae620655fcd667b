"""The app: type a concept, watch it go. `visit` does the work, `app` draws it."""
