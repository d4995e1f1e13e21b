# The model of models/ as a server, for any container host and as a SageMaker endpoint, which runs
# `docker run IMAGE serve`. See docs/serving.md.
FROM python:3.12-slim

WORKDIR /srv/alzmri
COPY requirements.txt ./
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    --requirement requirements.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
COPY models/model.json models/model.safetensors models/ood.safetensors models/MODEL_CARD.md ./models/
# Or every start would export the model anew.
RUN python -c "from pathlib import Path; from alzmri.inference import onnx_export; \
    onnx_export.write(Path('models'), Path('models/model.onnx'))"

RUN useradd --create-home --uid 10001 alzmri
USER alzmri
# Inside the container; which of its ports is reached from where, the host decides.
ENV ALZMRI_SERVE_HOST=0.0.0.0
EXPOSE 8080
# `docker run --read-only --tmpfs /tmp` is enough: only what is uploaded is written, there.
HEALTHCHECK --start-period=60s CMD python -c \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/ping', timeout=5)"
ENTRYPOINT ["alzmri"]
CMD ["serve"]
