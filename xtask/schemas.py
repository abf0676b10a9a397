"""Holds objects that Kubernetes itself does not define to the definitions of those who do.

Those of the Prometheus operator go through its models, which PyPI has: a value of another type is an
error, and a field that the operator does not know is lost on the way. Of OpenShift's no registry has
models: of them the fields of the first level are compared with a list (openshift/api, security/v1).
Arguments are files of rendered manifests.
"""

import sys

import yaml
from cloudcoil.models.prometheus_operator import v1


# What its API server refuses to be without, a null not being nothing,
REQUIRED = set(
    """allowHostDirVolumePlugin allowHostIPC allowHostNetwork allowHostPID allowHostPorts
    allowPrivilegedContainer allowedCapabilities defaultAddCapabilities priority
    readOnlyRootFilesystem requiredDropCapabilities volumes""".split()
)
# and what it knows beside.
OPTIONAL = set(
    """allowPrivilegeEscalation allowedFlexVolumes allowedUnsafeSysctls apiVersion
    defaultAllowPrivilegeEscalation forbiddenSysctls fsGroup groups kind metadata runAsUser
    seLinuxContext seccompProfiles supplementalGroups users""".split()
)


def lost(given, kept, at):
    """Where something of `given` is not in `kept`."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            yield from lost(value, kept.get(key), f"{at}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, value in enumerate(given):
            inner = kept[number] if number < len(kept) else None
            yield from lost(value, inner, f"{at}[{number}]")
    elif given != kept:
        yield at


def of_operator(one):
    """What the Prometheus operator would not know."""
    model = getattr(v1, one["kind"]).model_validate(one)
    kept = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return [f"unknown: {at}" for at in lost(one, kept, "")]


def of_openshift(one):
    """What OpenShift would not know, or miss."""
    unknown = [f"unknown: {name}" for name in one.keys() - REQUIRED - OPTIONAL]
    return unknown + [f"missing: {name}" for name in REQUIRED - one.keys()]


GROUPS = {"monitoring.coreos.com": of_operator, "security.openshift.io": of_openshift}


def main(paths):
    judged, wrong = dict.fromkeys(GROUPS, 0), []
    for path in paths:
        with open(path) as file:
            documents = [one for one in yaml.safe_load_all(file) if one]
        for one in documents:
            group = one["apiVersion"].split("/")[0]
            if group in GROUPS:
                judged[group] += 1
                name = f"{path}: {one['kind']} {one['metadata']['name']}"
                wrong += [f"{name}: {what}" for what in GROUPS[group](one)]
    if wrong:
        sys.exit("\n".join(wrong))
    for group, count in judged.items():
        if not count:
            sys.exit(f"no object of {group} in {' '.join(paths)}")
        print(f"{count} objects of {group} are as defined there")


main(sys.argv[1:])
