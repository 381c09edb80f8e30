# Lorasmith with its studio, for the CPU or for NVIDIA GPUs:
#     docker build -t lorasmith .                              CPU
#     docker build -t lorasmith --build-arg TORCH=cu130 .      CUDA 13.0 (TORCH: what uv knows as --torch-backend)
#     docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD/photos:/lorasmith/photos" -v "$PWD/runs:/lorasmith/runs" lorasmith
# compose.yaml says the same once; docs/platforms.md explains it.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm
ARG TORCH=cpu
# Triton compiles a small C file when it first runs a kernel, so a GPU needs a compiler.
# hadolint ignore=DL3008
RUN if [ "$TORCH" != cpu ]; then \
      apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi
COPY constraints.txt /build/constraints.txt
COPY --from=wheel /wheels /build/wheels
# uv chooses the build of torch; everything else has the versions of constraints.txt.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend "$TORCH" -c /build/constraints.txt \
      "$(ls /build/wheels/lorasmith-*.whl)[studio,8bit,optimizers]"

# The folders exist and belong to the user, so that new volumes get the same owner.
RUN useradd --create-home --uid 1000 lorasmith \
    && mkdir -p /cache /lorasmith/runs /lorasmith/photos && chown -R 1000:1000 /cache /lorasmith
ENV LORASMITH_CACHE=/cache/lorasmith HF_HOME=/cache/huggingface PYTHONUNBUFFERED=1
USER 1000
WORKDIR /lorasmith
VOLUME ["/cache", "/lorasmith/runs"]
EXPOSE 7860
ENTRYPOINT ["lorasmith"]
# Inside of a container, 0.0.0.0 is reached through a published port alone. A fixed port: a free one is not published.
CMD ["studio", "/lorasmith", "--host", "0.0.0.0", "--port", "7860"]
