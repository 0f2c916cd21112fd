"""The commands of ``muster-sim``, one per file; `console` is what they share: options, errors, output."""
