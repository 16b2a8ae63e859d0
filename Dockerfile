# The fixed environment of bids_alsmri, for x86-64. Build it with docker, podman or buildah:
#   podman build -t bids_alsmri .
#   podman build -t bids_alsmri --build-arg TEMPLATES="MNI152NLin6Asym" .   # on an open network
# Behind a mirror or a proxy with its own certificate, hand these in; all of them are optional:
#   --secret id=aptsources,src=debian.sources --secret id=pipconf,src=pip.conf --secret id=ca,src=ca.crt
# (in pip.conf, cert = /run/build-ca.crt)

FROM docker.io/library/debian:bookworm-slim AS base
# kernels and wheels are of one architecture; elsewhere the build would end in an obscure error
RUN test "$(dpkg --print-architecture)" = amd64 \
    || { echo "bids_alsmri images are built for amd64, and this is $(dpkg --print-architecture);" \
              "add --platform linux/amd64, or install with pip" >&2; exit 1; }
# versions are those of the Debian release that FROM names
# hadolint ignore=DL3008
RUN --mount=type=secret,id=aptsources,target=/etc/apt/sources.list.d/debian.sources \
    apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

FROM base AS requirements
COPY setup.cfg containers/list_requirements.py /
RUN python3 /list_requirements.py /setup.cfg > /requirements.txt

# Wheels of the dependencies: made again only when they or their versions change, and not with
# whatever else stands in setup.cfg
FROM base AS wheels
# hadolint ignore=DL3008
RUN --mount=type=secret,id=aptsources,target=/etc/apt/sources.list.d/debian.sources \
    apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
WORKDIR /build
COPY constraints.txt ./
COPY --from=requirements /requirements.txt ./
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/build-ca.crt \
    /opt/venv/bin/pip wheel --no-cache-dir --use-pep517 --wheel-dir /wheels \
       --constraint constraints.txt --requirement requirements.txt

FROM wheels AS dependencies
RUN /opt/venv/bin/pip install --no-cache-dir --no-index --find-links /wheels \
    --requirement requirements.txt

FROM wheels AS app
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY bids_alsmri bids_alsmri
RUN --mount=type=secret,id=pipconf,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/run/build-ca.crt \
    /opt/venv/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /app .

FROM base
COPY --from=dependencies /opt/venv /opt/venv

ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    HOME=/home/alsmri \
    TEMPLATEFLOW_HOME=/opt/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=0 \
    ALSMRI_KERNELS=/opt/numba \
    NUMBA_CPU_NAME=generic \
    NUMBA_CPU_FEATURES= \
    NIPYPE_NO_ET=1 \
    MPLBACKEND=Agg \
    PYTHONNOUSERSITE=1 \
    OMP_NUM_THREADS=1 \
    OPENBLAS_NUM_THREADS=1 \
    MKL_NUM_THREADS=1 \
    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1

# templateflow unpacks the list of its files at its first import; later it could not write
ARG TEMPLATES=""
RUN python3 -c "import templateflow.api" \
    && for template in $TEMPLATES; do \
         python3 -c "import sys, templateflow.api as t; t.get(sys.argv[1], raise_empty=True)" \
           "$template" || exit 1; \
       done \
    && mkdir -m 1777 "$HOME"

# copied and not bound: podman would take the layer of an earlier build for one of other wheels
COPY --from=app /app /opt/app
COPY containers/compile_kernels.py /opt/app/

# kernels for any processor of this architecture, so that all give the same numbers
RUN pip install --no-cache-dir --no-index --no-deps /opt/app/*.whl \
    && NUMBA_CACHE_DIR=/opt/numba MPLCONFIGDIR=/tmp/matplotlib \
       python3 /opt/app/compile_kernels.py \
    && rm -rf /tmp/matplotlib \
    && ln -s /opt/venv/bin/bids_alsmri /opt/venv/bin/bids_alsmri_phantom /usr/local/bin/ \
    && python3 -c "from bids_alsmri.version import VERSION; print(VERSION)" > /version

LABEL org.opencontainers.image.title="bids_alsmri" \
      org.opencontainers.image.description="BIDS App for quantitative MRI in amyotrophic lateral sclerosis" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

ENTRYPOINT ["/usr/local/bin/bids_alsmri"]
