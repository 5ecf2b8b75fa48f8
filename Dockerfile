# Two images from one file, for BuildKit and for the classic builder alike (which runs every stage that stands before
# the one that is asked for, hence the order):
#
#   docker build --target serve -t contrec .             what answers requests
#   docker build --target train -t contrec-train .       the same and what training needs on top
#
# No compiler anywhere: wheels only. The system is read-only to the process, which is user 10001; what it writes goes to
# /var/lib/contrec (a volume) and /tmp. torch comes from TORCH_INDEX where that is reached, else from pip's own sources,
# and those are yours to set: the PIP_* arguments below, or the daemon's.
ARG PYTHON_IMAGE=python:3.11-slim


# ------------------------------------------------------------------------------------ the packages that serving needs
FROM ${PYTHON_IMAGE} AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
WORKDIR /src
RUN python -m venv /venv
COPY constraints.txt ./
COPY .ci/install-torch .ci/
RUN sh .ci/install-torch /venv/bin/python "${TORCH_INDEX}"
COPY pyproject.toml ./
COPY .ci/requirements .ci/slim .ci/
RUN /venv/bin/python .ci/requirements serve > serve.txt \
    && /venv/bin/python -m pip install -qq -c constraints.txt -r serve.txt \
    && /venv/bin/python .ci/slim /venv \
    && /venv/bin/python -m pip uninstall -qq -y setuptools pip


# ------------------------------------------------------------------------- contrec itself, a layer of a few megabytes
FROM ${PYTHON_IMAGE} AS code
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /venv
COPY pyproject.toml README.md LICENSE ./
COPY contrec contrec
COPY model model
COPY service service
COPY training training
RUN /venv/bin/python -m pip install -qq --no-deps --target /app .


# ---------------------------------------------------------------------------------------------------- what is served
FROM ${PYTHON_IMAGE} AS serve
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin contrec \
    && for folder in bundles work; do mkdir -p "/var/lib/contrec/$folder"; done \
    && chown -R contrec:contrec /var/lib/contrec
COPY --from=packages /venv /venv
COPY --from=code /app /app
ENV PATH=/venv/bin:/app/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CONTREC_HOST=0.0.0.0 \
    CONTREC_BUNDLES=/var/lib/contrec/bundles \
    CONTREC_STORE=sqlite:////var/lib/contrec/contrec.db
USER 10001:10001
WORKDIR /var/lib/contrec
EXPOSE 8000 9100
# The interpreter is there, curl is not. -I -S: without site-packages it starts in a few hundredths of a second. Loading
# may take minutes on a busy machine; a replica that is called unhealthy meanwhile makes `docker compose up` give up.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["python", "-I", "-S", "-c", \
    "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('CONTREC_PORT') or 8000), timeout=3); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "service"]


# -------------------------------------------------------------------------------------------------- what trains, too
FROM serve AS train
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
USER root
COPY constraints.txt pyproject.toml /src/
COPY .ci/requirements /src/
RUN /venv/bin/python /src/requirements train > /src/train.txt \
    && PYTHONPATH= PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore "$(PATH=/usr/local/bin:/usr/bin command -v python3)" \
       -m pip --python /venv/bin/python install -qq --only-binary=:all: -c /src/constraints.txt -r /src/train.txt
USER 10001:10001
ENTRYPOINT ["contrec"]
CMD ["bootstrap"]
