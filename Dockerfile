# qgbench with the PyTorch for processors: docker build --tag qgbench . && docker run --rm qgbench run --help
FROM python:3.11-slim
WORKDIR /opt/qgbench
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE ./
COPY qgbench qgbench
COPY baselines baselines
COPY datasets datasets
COPY suites suites
RUN pip install --no-cache-dir ".[hdf5,onnx]"
ENV QGBENCH_CACHE=/bench/cache QGBENCH_DATA=/bench/data
WORKDIR /bench
ENTRYPOINT ["qgbench"]
CMD ["--help"]
