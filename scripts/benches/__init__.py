"""The subjects of scripts/bench, one a module with `main(arguments) -> exit code`, and the frame they share."""
