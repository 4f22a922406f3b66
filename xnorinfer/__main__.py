"""`python -m xnorinfer` is the command `xnorinfer`."""

from xnorinfer.cli import main

if __name__ == "__main__":
    main(prog_name="xnorinfer")
