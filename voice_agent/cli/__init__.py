"""The command line: `voice-agent serve | demo | transcribe | models | doctor | bench`.

    app         the commands and their flags; `main`
    load        the recogniser that the settings name
    errors      what a person is told when a command fails, and its exit code
    serve, demo, transcribe, models   what each command does

Only typer and rich are imported before a command runs, so that `--help` answers at once.
"""

from voice_agent.cli.app import main

__all__ = ["main"]
