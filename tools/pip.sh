# Installs into an environment, whatever pip has been told elsewhere about where to install:
#
#     sh tools/pip.sh .venv -r requirements.txt
#
# While it works, and after it was stopped, the environment has the mark .unfinished: what lies there
# then is half of something, and make builds it again.

environment=$1
shift
unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN PIP_NO_BUILD_ISOLATION PIP_REQUIRE_HASHES
export PIP_USER=0

touch "$environment/.unfinished"
trap 'exit 130' INT TERM HUP
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
status=$?
# Not where a signal has ended pip. A failure of its own leaves what was there before.
[ "$status" -gt 128 ] || rm "$environment/.unfinished"
[ "$status" -eq 0 ] || {
    echo "pip could not install $*, for the reason above; if it found no packages, it needs an index" \
        "that has them: \`$environment/bin/pip config list\` and the variables PIP_... name its own" >&2
    exit 2
}
