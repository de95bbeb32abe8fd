# The whole product in one container: gateway, control plane, embedded Ray.
#
#   docker build -t serving .
#   docker run --init --shm-size=256m -p 8000:8000 -p 8001:8001 -p 8002:8002 -v serving-data:/data serving
#   docker exec CONTAINER serving token --subject me --role caller
#
# The inference and metrics ports are open to the container's network; the control port stays on
# loopback (`docker exec CONTAINER serving status` reaches it) unless SERVING_CONTROL_HOST says
# otherwise. /data holds keys and the prediction log: give it a volume, or they end with the container.

FROM python:3.11-slim AS build
WORKDIR /build
COPY configs/requirements.lock ./
RUN python -m venv /opt/serving \
    && /opt/serving/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml LICENSE README.md ./
COPY serving ./serving
RUN /opt/serving/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home serving \
    && install --directory --mode=0700 --owner=serving --group=serving /data
COPY --from=build /opt/serving /opt/serving
COPY models /opt/models
# Who reaches the container's own network is decided by what publishes its ports: publish them on
# loopback, behind a proxy that encrypts, or give certificates (SERVING_HTTP_CERTIFICATE and _KEY).
ENV PATH=/opt/serving/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SERVING_DATA_DIR=/data \
    SERVING_MODELS_DIR=/opt/models \
    SERVING_HTTP_HOST=0.0.0.0 \
    SERVING_GRPC_HOST=0.0.0.0 \
    SERVING_METRICS_HOST=0.0.0.0 \
    SERVING_HTTP_PLAIN_TEXT=true \
    SERVING_GRPC_PLAIN_TEXT=true \
    SERVING_METRICS_PLAIN_TEXT=true
USER 10001
WORKDIR /home/serving
VOLUME /data
# Inference over HTTP and gRPC, metrics, control.
EXPOSE 8000-8003
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import httpx; httpx.get('http://127.0.0.1:8000/v2/health/live').raise_for_status()"]
ENTRYPOINT ["serving"]
CMD ["up"]
