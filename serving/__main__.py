"""`python -m serving`: the same as the command `serving`, also from a clone without dependencies."""

from serving import bootstrap

if __name__ == "__main__":
    bootstrap.ensure()

    # Only now: in a bare clone the packages that this imports were not there a moment ago.
    from serving.cli import main

    main()
