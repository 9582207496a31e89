"""What the detector finds on labelled data sets, beside what detectors of libraries do."""
