# Runs a stage with the Python of the environment that make builds, activated or not:
#
#     sh stages/python.sh stages/prepare.py ...
#
# Without that environment it is the shell's Python. Copies of the project that `dvc exp run --temp`
# and the queue make have no environment of their own, and take the project's.

folder=$(cd "$(dirname "$0")/.." && pwd -P)
environment="${folder%%/.dvc/tmp/exps/*}/.venv"
unset PYTHONSAFEPATH # a stage imports what is beside it

# Ctrl-C waits until the stage can end without a traceback (see run in stages/_stage.py), where the
# system's env can do that.
begin=
if env --block-signal=INT true 2>/dev/null; then
    begin="env --block-signal=INT"
fi

if [ -x "$environment/bin/python" ]; then
    unset PYTHONHOME # another Python's
    exec $begin "$environment/bin/python" "$@"
fi
for name in python python3; do
    if command -v "$name" >/dev/null; then
        exec $begin "$name" "$@"
    fi
done
echo "No Python found, neither in $environment nor on PATH: run \`make repro\`, which builds the" \
    "environment; \`dvc checkout\` brings back the outputs that DVC has deleted" >&2
exit 2
